"""The page in a real browser: pictures that people give it, and the answers they see."""

import threading
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from tests.helpers import EXAMPLES, RunningService, held_service
from tests.page.cards import ROCKET, SHIPPED, card, choose, hand_over, services_labels


def test_a_chosen_picture_gets_the_services_five_labels(tab: Page, service: RunningService) -> None:
    tab.goto("/")
    choose(tab, ROCKET)
    answer = card(tab, "rocket.jpg")
    expect(answer.locator(".top")).to_have_text("rocket")
    assert answer.locator(".bars li").all_text_contents() == services_labels(service, ROCKET)
    expect(tab.get_by_role("status")).to_have_text("rocket.jpg: rocket, 52.8 %")


def test_the_longest_bar_is_as_wide_as_its_share(tab: Page) -> None:
    tab.goto("/")
    choose(tab, ROCKET)
    fill = card(tab, "rocket.jpg").locator(".fill").first
    fill.wait_for()
    share = fill.evaluate("bar => bar.getBoundingClientRect().width / bar.parentElement.getBoundingClientRect().width")
    assert share == pytest.approx(0.527, abs=0.005)


def test_the_stages_of_that_request_are_shown(tab: Page) -> None:
    tab.goto("/")
    with tab.expect_response(lambda response: "/classify" in response.url) as answered:
        choose(tab, ROCKET)
    timing = answered.value.header_value("server-timing") or ""
    legend = card(tab, "rocket.jpg").locator(".legend li")
    expect(legend).to_have_count(6)
    inference = float(timing.split("inference;dur=")[1].split(",")[0])
    words = f"inference {inference:.1f} ms" if inference < 10 else f"inference {inference:.0f} ms"
    assert [text.split()[0] for text in legend.all_text_contents()] == [
        "receive",
        "decode",
        "queue",
        "inference",
        "rest",
        "total",
    ]
    assert words in legend.all_text_contents() or inference % 1 == pytest.approx(0.5)


def test_a_broken_file_is_refused_in_the_services_words(tab: Page, service: RunningService, broken: Path) -> None:
    detail = service.classify(broken.read_bytes()).json()["detail"]
    tab.goto("/")
    choose(tab, broken)
    refusal = card(tab, "holiday.jpg").locator(".wrong")
    expect(refusal).to_contain_text(detail, ignore_case=True)
    expect(refusal).to_contain_text("invalid_image")
    expect(card(tab, "holiday.jpg").get_by_role("button", name="Try again")).to_have_count(0)
    expect(tab.get_by_role("status")).to_contain_text(detail)


def test_a_slow_answer_shows_a_spinner_until_it_comes(tab: Page) -> None:
    held: list[Route] = []
    tab.route("**/classify*", lambda route: held.append(route))
    tab.goto("/")
    with tab.expect_request("**/classify*"):
        choose(tab, ROCKET)
    waiting = card(tab, "rocket.jpg")
    expect(waiting.locator(".spinner")).to_be_visible()
    expect(waiting).to_have_attribute("aria-busy", "true")
    expect(waiting).to_contain_text("Looking")
    held[0].continue_()
    expect(waiting.locator(".top")).to_have_text("rocket")
    expect(waiting.locator(".spinner")).to_have_count(0)
    expect(waiting).not_to_have_attribute("aria-busy", "true")


def test_several_pictures_at_once_each_get_their_own_answer(tab: Page, service: RunningService, broken: Path) -> None:
    pictures = [EXAMPLES / f"{name}.jpg" for name in ("rocket", "cup", "cat", "astronaut")]
    tab.goto("/")
    choose(tab, *pictures, broken, ROCKET)  # one name twice: two cards, and more than go at once
    expect(tab.locator('.card[data-state="answered"]')).to_have_count(5)
    expect(tab.locator('.card[data-state="failed"]')).to_have_count(1)
    for picture in pictures:
        shown = card(tab, picture.name).first.locator(".bars li").all_text_contents()
        assert shown == services_labels(service, picture)


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_a_picture_may_be_pasted_or_dropped_anywhere(tab: Page, kind: str) -> None:
    tab.goto("/")
    hand_over(tab, kind, "mine.jpg", ROCKET.read_bytes())
    expect(card(tab, "mine.jpg").locator(".top")).to_have_text("rocket")


def test_the_pictures_that_ship_can_be_tried(tab: Page, service: RunningService) -> None:
    tab.goto("/")
    for name in ("cup", "cat"):
        tab.get_by_role("button", name=f"Try the picture of a {name}").click()
        answer = card(tab, f"{name}.jpg")
        answer.locator(".bars").wait_for()
        assert answer.locator(".bars li").all_text_contents() == services_labels(service, SHIPPED / f"{name}.jpg")


def test_everything_can_be_done_with_the_keyboard(tab: Page) -> None:
    tab.on("filechooser", lambda _: None)  # early: a browser told together with the key may open a dialog of its own
    tab.goto("/")
    tab.locator("#about .name").wait_for()

    def tab_to(selector: str) -> None:
        for _ in range(40):
            tab.keyboard.press("Tab")
            if tab.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"the Tab key never came to {selector}")

    tab_to(".skip")
    tab_to("#files")
    with tab.expect_file_chooser() as chooser:
        tab.keyboard.press("Space")
    chooser.value.set_files(ROCKET)
    expect(card(tab, "rocket.jpg").locator(".top")).to_have_text("rocket")
    tab_to('[data-example="cup.jpg"]')
    tab.keyboard.press("Enter")
    card(tab, "cup.jpg").locator(".bars").wait_for()
    tab_to('[aria-label="Remove cup.jpg"]')
    tab.keyboard.press("Enter")
    expect(card(tab, "cup.jpg")).to_have_count(0)
    assert tab.evaluate("document.activeElement.getAttribute('aria-label')") == "Remove rocket.jpg"
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "files"
    expect(tab.locator("#answers")).to_be_hidden()
    tab_to("#about summary")
    tab.keyboard.press("Enter")
    tab_to("#filter")
    tab.keyboard.type("willow")
    expect(tab.locator(".labels li")).to_have_text(["willow tree"])


def test_a_refused_picture_may_be_tried_again(tab: Page) -> None:
    problem = {"title": "Too Many Requests", "status": 429, "detail": "the queue is full", "code": "queue_full"}
    tab.route("**/classify*", lambda route: route.fulfill(status=429, json=problem), times=1)
    tab.goto("/")
    choose(tab, ROCKET)
    answer = card(tab, "rocket.jpg")
    expect(answer.locator(".wrong")).to_contain_text("The queue is full")
    answer.get_by_role("button", name="Try again").click()
    expect(answer.locator(".top")).to_have_text("rocket")


def test_a_name_is_text_and_nothing_else(tab: Page) -> None:
    tab.goto("/")
    name = "<img src=x onerror=document.title=1>.jpg"
    hand_over(tab, "drop", name, ROCKET.read_bytes())
    expect(card(tab, name).locator(".top")).to_have_text("rocket")
    expect(tab).to_have_title("aaserve: what is in the picture?")


def test_a_picture_that_is_removed_is_no_longer_computed(context: BrowserContext) -> None:
    with held_service() as held:
        tab = context.new_page()
        tab.goto(str(held.client.base_url))
        with tab.expect_request("**/classify*"):
            choose(tab, ROCKET)
        tab.get_by_role("button", name="Remove rocket.jpg").click()
        left = threading.Event()
        while not held.metric("aaserve_rejected_total", reason="disconnected"):
            assert not held.metric("aaserve_requests_total", endpoint="/classify", code="200")
            left.wait(0.05)
        tab.close()
