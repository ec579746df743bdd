"""The page in a real browser: the model, the figures, the key, and a service that went away."""

import hashlib
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.helpers import RunningService, running_service
from tests.page.cards import ROCKET, card, choose, services_labels


def test_the_card_says_what_the_service_says_of_the_model(tab: Page, service: RunningService) -> None:
    version = service.client.get("/models/aa-cifar100").json()["versions"][0]
    tab.goto("/")
    about = tab.locator("#about")
    expect(about.locator(".name")).to_have_text("aa-cifar100 version 1")
    expect(about).to_contain_text(f"{version['accuracy']['top_1'] * 100:.1f} %")
    expect(about).to_contain_text(f"{version['accuracy']['top_5'] * 100:.1f} %")
    expect(about).to_contain_text(version["architecture"])
    expect(about).to_contain_text(version["provider"].removesuffix("ExecutionProvider"))
    expect(about).to_contain_text("differs by 7e-7 at most, same answer on 4 of 4")
    about.get_by_text("The 100 labels").click()
    expect(about.locator(".labels li")).to_have_count(100)
    about.get_by_text("Origin", exact=True).click()
    expect(about).to_contain_text(version["provenance"]["command"])


def test_the_card_says_that_an_older_version_is_served_and_why(tab: Page, service: RunningService) -> None:
    notice = "version 2 cannot be served, version 1 is served instead"
    failure = {"version": "2", "reason": "aa-cifar100/2/model.onnx: expected sha256 1, found 2"}
    model = service.client.get("/models/aa-cifar100").json() | {"notice": notice, "failures": [failure]}
    tab.route("**/models/aa-cifar100", lambda route: route.fulfill(json=model))
    tab.goto("/")
    about = tab.locator("#about")
    expect(about).to_contain_text(notice)
    expect(about).to_contain_text(f"version 2: {failure['reason']}")


def test_the_figures_are_those_of_the_metrics(tab: Page, service: RunningService) -> None:
    tab.clock.install(time=0)
    tab.clock.pause_at(1000)  # so that the seconds between two looks at the metrics are those that are told
    with tab.expect_response("**/metrics"):
        tab.goto("/")
    expect(tab.locator("#queue")).to_have_text("0 / 128")
    expect(tab.locator("#state")).to_have_text("ready")
    expect(tab.locator("#p99")).to_have_text("–")
    for _ in range(20):
        service.classify(ROCKET.read_bytes())
    with tab.expect_response("**/metrics"):
        tab.clock.run_for(2000)
    expect(tab.locator("#batch")).to_have_text("1.0")
    expect(tab.locator("#p99")).to_contain_text("ms")
    expect(tab.locator("#median")).to_contain_text("ms")
    expect(tab.locator("#rate")).to_have_text("10 /s")
    expect(tab.locator("#rate-spark polyline")).to_have_count(1)
    expect(tab.locator("#rate-spark")).to_have_attribute("aria-label", "Answers per second, now 10.0")


def test_a_hidden_tab_asks_for_nothing(tab: Page) -> None:
    tab.clock.install()
    with tab.expect_response("**/metrics"):
        tab.goto("/")
    expect(tab.locator("#queue")).to_have_text("0 / 128")
    expect(tab.locator("#about .name")).to_be_visible()
    tab.wait_for_load_state("networkidle")  # the browser may tell late of what was asked before
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    hide = """hidden => {
        Object.defineProperty(document, "hidden", {configurable: true, get: () => hidden});
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    tab.evaluate(hide, True)
    tab.clock.run_for(60_000)
    assert asked == []
    with tab.expect_response("**/metrics"):
        tab.evaluate(hide, False)


def test_a_service_that_went_away_is_said_so(context: BrowserContext) -> None:
    with running_service() as leaving:
        tab = context.new_page()
        tab.clock.install()
        tab.goto(str(leaving.client.base_url))
        expect(tab.locator("#state")).to_have_text("ready")
        leaving.stop()
        tab.clock.run_for(2000)
        expect(tab.locator("#state")).to_have_text("the service does not respond")
        choose(tab, ROCKET)
        expect(card(tab, "rocket.jpg").locator(".wrong")).to_contain_text("The connection broke")
        tab.close()


def test_no_other_script_or_style_runs(context: BrowserContext) -> None:
    tab = context.new_page()
    blocked: list[str] = []
    tab.on("console", lambda message: blocked.append(message.text))
    tab.goto("/")
    with pytest.raises(Exception, match="Trusted"):
        tab.evaluate("document.body.insertAdjacentHTML('beforeend', '<p onclick=alert(1)>')")
    tab.evaluate("document.body.setAttribute('style', 'display: none')")
    tab.evaluate("document.body.append(Object.assign(new Image, {src: 'https://example.org/x.png'}))")
    tab.evaluate("fetch('https://example.org/').catch(() => 0)")
    expect(tab.locator("h1")).to_be_visible()
    words = " ".join(blocked)
    for directive in ("style-src", "img-src", "connect-src"):
        assert directive in words
    tab.close()


def test_a_service_with_keys_asks_for_one_and_works_with_it(
    browser: Browser, service: RunningService, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(
        "".join(f"{scope} {hashlib.sha256(scope.encode()).hexdigest()}\n" for scope in ("infer", "metrics"))
    )
    with (
        running_service("--api-keys-file", str(keys)) as keyed,
        browser.new_page(base_url=str(keyed.client.base_url)) as tab,
    ):
        complaints: list[str] = []
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto("/")
        field = tab.get_by_label("This service needs an API key")
        expect(field).to_be_visible()
        choose(tab, ROCKET)
        answer = card(tab, "rocket.jpg")
        expect(answer.get_by_text("A key is needed")).to_be_visible()
        expect(tab.locator("#model-note")).to_contain_text("No model information: a key is needed")

        field.fill("wrong")
        field.press("Enter")
        expect(tab.get_by_text("The service does not accept this key.")).to_be_visible()

        field.fill("infer")
        tab.get_by_role("button", name="Use this key").click()
        expect(field).to_be_hidden()
        answer.get_by_role("button", name="Try again").click()
        expect(answer.locator(".top")).to_have_text("rocket")
        assert answer.locator(".bars li").all_text_contents() == services_labels(service, ROCKET)
        expect(tab.locator(".name")).to_contain_text("aa-cifar100")
        expect(tab.locator("#live-note")).to_have_text("No metrics: this key is not for metrics.")
        expect(tab.locator("#state")).to_have_text("ready")
        stored = tab.evaluate("[Object.keys(localStorage), Object.keys(sessionStorage), document.cookie]")
        assert stored == [[], [], ""]
        tab.reload()
        expect(field).to_be_visible()
        assert complaints == []


def test_a_service_without_keys_asks_for_none(tab: Page) -> None:
    tab.goto("/")
    expect(tab.locator("#state")).to_have_text("ready")
    expect(tab.locator("#key-form")).to_be_hidden()
