"""The page in a real browser: what people do, and what they see then."""

import hashlib
import threading
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from tests.helpers import EXAMPLES, ROOT, RunningService, held_service, running_service

ROCKET = EXAMPLES / "rocket.jpg"
SHIPPED = ROOT / "service" / "http" / "page_assets" / "examples"


def services_labels(service: RunningService, picture: Path) -> list[str]:
    """The five labels the service gives, as the page writes them."""
    predictions = service.classify(picture.read_bytes()).json()["predictions"]
    return [f"{p['label'].replace('_', ' ')}{p['score'] * 100:.1f} %" for p in predictions]


def choose(tab: Page, *pictures: Path) -> None:
    tab.set_input_files("#files", pictures)


def card(tab: Page, name: str):  # type: ignore[no-untyped-def]
    return tab.locator(".card").filter(has=tab.get_by_role("heading", name=name, exact=True))


def hand_over(tab: Page, kind: str, name: str, content: bytes) -> None:
    """What the browser does when a file is pasted or dropped; automation has no hand on the clipboard's files."""
    tab.evaluate(
        """([kind, name, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/jpeg"}));
            const event = kind === "paste"
                ? new ClipboardEvent(kind, {clipboardData: data, bubbles: true, cancelable: true})
                : new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true});
            document.body.dispatchEvent(event);
        }""",
        [kind, name, list(content)],
    )


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
    tab.clock.install()
    with tab.expect_response("**/metrics"):
        tab.goto("/")
    expect(tab.locator("#queue")).to_have_text("0 / 128")
    expect(tab.locator("#state")).to_have_text("ready")
    expect(tab.locator("#p99")).to_have_text("–")
    before = tab.evaluate("performance.now()")
    for _ in range(20):
        service.classify(ROCKET.read_bytes())
    with tab.expect_response("**/metrics"):
        tab.clock.run_for(2000)
    expect(tab.locator("#batch")).to_have_text("1.0")
    expect(tab.locator("#p99")).to_contain_text("ms")
    expect(tab.locator("#median")).to_contain_text("ms")
    rate = float(tab.locator("#rate").inner_text().split()[0])
    passed = (tab.evaluate("performance.now()") - before) / 1000  # the page's clock goes on beside what it is told
    assert rate == pytest.approx(20 / passed, rel=0.2)
    expect(tab.locator("#rate-spark polyline")).to_have_count(1)
    expect(tab.locator("#rate-spark")).to_have_attribute("aria-label", f"Answers per second, now {rate:.1f}")


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
