"""What all users can see and reach: names, contrast, small and large screens, light and dark, still pictures."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.helpers import EXAMPLES, ROOT, RunningService

SCREENSHOTS = ROOT / "runs" / "screenshots"  # git-ignored; CI keeps them

AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# For each text: its contrast with the nearest background that is not transparent, and what WCAG AA asks of its size.
CONTRASTS = """() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
    const rgba = (colour) => {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const luminance = ([r, g, b]) => [r / 255, g / 255, b / 255]
        .map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || ["SCRIPT", "OPTION"].includes(element.tagName)) continue;
        if (!element.checkVisibility()) continue;
        let at = element, ground = [255, 255, 255, 0];
        for (; at; at = at.parentElement) {
            if (at.matches(".pen")) { ground = rgba(getComputedStyle(at).getPropertyValue("--mark")); break; }
            ground = rgba(getComputedStyle(at).backgroundColor);
            if (ground[3] === 255) break;
        }
        const style = getComputedStyle(element);
        const [high, low] = [luminance(rgba(style.color)), luminance(ground)].sort((a, b) => b - a);
        const size = parseFloat(style.fontSize);
        const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
        const text = walker.currentNode.data.trim();
        found.push({text, ratio: (high + .05) / (low + .05), needed: large ? 3 : 4.5});
    }
    return found;
}"""


@pytest.fixture(scope="module")
def tab(browser: Browser, service: RunningService, broken: Path) -> Iterator[Page]:
    """The page after a few pictures, everything unfolded. Screens and colours are a matter of style sheets alone."""
    context = browser.new_context(base_url=str(service.client.base_url), reduced_motion="reduce")
    tab = context.new_page()
    tab.goto("/")
    tab.locator("#about .name").wait_for()
    tab.set_input_files("#files", [broken, EXAMPLES / "cup.jpg", EXAMPLES / "rocket.jpg"])
    expect(tab.locator('.card[data-state="waiting"]')).to_have_count(0)
    for summary in tab.locator("summary").all():
        summary.click()
    yield tab
    context.close()


def displayed(tab: Page, *, width: int = 1280, scheme: Literal["light", "dark"] = "light", height: int = 900) -> Page:
    """On a screen of this size, in these colours."""
    tab.set_viewport_size({"width": width, "height": height})
    tab.emulate_media(color_scheme=scheme)
    return tab


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1440])
def test_it_fits_every_screen(tab: Page, width: int, scheme: Literal["light", "dark"]) -> None:
    displayed(tab, width=width, scheme=scheme)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=SCREENSHOTS / f"page-{width}-{scheme}.png", full_page=True)
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    outside = tab.evaluate(
        """() => [...document.querySelectorAll("body *:not(.unseen):not(.skip):not(.skip *)")]
            .filter((e) => e.checkVisibility() && !e.closest("svg"))
            .filter((e) => e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1)
            .map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert outside == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_that_wcag_aa_asks_for(tab: Page, scheme: Literal["light", "dark"]) -> None:
    found = displayed(tab, scheme=scheme).evaluate(CONTRASTS)
    texts = {text["text"] for text in found}
    assert {"rocket", "No answer", "Choose pictures", "Right now", "picture"} <= texts
    assert [text for text in found if text["ratio"] < text["needed"]] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_axe_finds_no_violation_of_wcag_aa(tab: Page, width: int, scheme: Literal["light", "dark"]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    displayed(tab, width=width, scheme=scheme)
    found = axe.Axe().run(tab, options={"runOnly": AXE_TAGS, "resultTypes": ["violations"]}).response["violations"]
    assert [(rule["id"], node["target"], node["failureSummary"]) for rule in found for node in rule["nodes"]] == []


def test_everything_that_can_be_used_has_a_name_and_room_for_a_finger(tab: Page) -> None:
    displayed(tab, width=360, height=800)
    session = tab.context.new_cdp_session(tab)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "link", "textbox", "searchbox", "combobox", "img", "image", "list", "heading", "region"}
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"] and node.get("role", {}).get("value") in roles
    ]
    assert len(named) > 20
    assert [role for role, name in named if not name and role != "list" and role != "image"] == []
    assert ("button", "Choose pictures") in named
    assert ("searchbox", "Find a label") in named
    small = tab.evaluate(
        """() => [...document.querySelectorAll("button, summary, .button, nav a")]
            .filter((e) => e.checkVisibility()).map((e) => [e.textContent, e.getBoundingClientRect().height])
            .filter(([, height]) => height < 24)"""
    )
    assert small == []


def test_headings_leave_out_no_level(tab: Page) -> None:
    levels = tab.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))


@pytest.mark.parametrize(("motion", "moves"), [("reduce", False), ("no-preference", True)])
def test_nothing_moves_for_users_who_prefer_reduced_motion(
    browser: Browser, service: RunningService, motion: str, moves: bool
) -> None:
    context = browser.new_context(base_url=str(service.client.base_url), reduced_motion=motion)  # type: ignore[arg-type]
    tab = context.new_page()
    tab.route("**/classify*", lambda route: None)  # never answered: it waits
    tab.goto("/")
    tab.set_input_files("#files", EXAMPLES / "rocket.jpg")
    name = tab.locator(".spinner").evaluate("spinner => getComputedStyle(spinner).animationName")
    assert (name != "none") is moves
    context.close()
