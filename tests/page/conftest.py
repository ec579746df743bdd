"""A real browser before the real service, watched: nothing may be blocked, fail or go elsewhere."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.helpers import RunningService

CHROMIUM = shutil.which("chromium")
HERE = Path(__file__).parent
_running = ExitStack()


@pytest.fixture(scope="module")
def browser() -> Browser:
    """Debian's Chromium without a window; one for all tests of this folder that follow each other."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    expect.set_options(timeout=60_000)
    return _chromium()


@cache
def _chromium() -> Browser:
    playwright = _running.enter_context(sync_playwright())
    return _running.enter_context(
        playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
    )


@pytest.hookimpl(trylast=True)  # after the teardown of fixtures
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """Close the browser before other tests begin: while it lives, no other event loop runs in this thread."""
    if nextitem is None or not nextitem.path.is_relative_to(HERE):
        _chromium.cache_clear()
        _running.close()


@pytest.fixture
def shown(service: RunningService) -> RunningService:
    """The service whose page the browser shows; a module may have another."""
    return service


@pytest.fixture
def context(browser: Browser, shown: RunningService) -> Iterator[BrowserContext]:
    context = browser.new_context(base_url=str(shown.client.base_url), reduced_motion="reduce")
    context.set_default_timeout(60_000)
    yield context
    context.close()


@pytest.fixture
def tab(context: BrowserContext, shown: RunningService) -> Iterator[Page]:
    """A tab. The test fails if it logs an error or fetches from another host."""
    tab = context.new_page()
    complaints: list[str] = []
    addresses: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: addresses.append(request.url))
    yield tab
    own = (str(shown.client.base_url), "data:", f"blob:{shown.client.base_url}")
    assert [address for address in addresses if not address.startswith(own)] == []
    # Chromium itself notes each answer of 4xx and 5xx, and each broken connection.
    assert [text for text in complaints if not text.startswith("Failed to load resource")] == []


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first half of a photograph."""
    path = tmp_path_factory.mktemp("broken") / "holiday.jpg"
    path.write_bytes((Path(__file__).parents[2] / "examples" / "rocket.jpg").read_bytes()[:6000])
    return path
