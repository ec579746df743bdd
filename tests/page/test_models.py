"""Several models behind one page: which one answers, and that the words are about that one."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.helpers import RunningService, running_service
from tests.looking_bundle import looking_picture, write_looking_bundle
from tests.toy_bundles import picture, write_fragile_bundle

RED = {"name": "red.png", "mimeType": "image/png", "buffer": picture(3)}
BLUE = {"name": "blue.png", "mimeType": "image/png", "buffer": looking_picture()}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """looking (4x6 pixels, shows attention), small (8x8) and wide (224x224), which is the default."""
    repository = tmp_path_factory.mktemp("repository")
    write_looking_bundle(repository)
    write_fragile_bundle(repository, name="small")
    write_fragile_bundle(repository, name="wide", side=224, labels=tuple("ABCD"))
    (repository / "serving.toml").write_text('default_model = "wide"\n')
    with running_service(repository=repository) as running:
        yield running


@pytest.fixture
def shown(models: RunningService) -> RunningService:
    return models


@pytest.fixture
def tab(tab: Page) -> Page:
    """The page with the default model chosen."""
    tab.goto("/")
    expect(tab.locator("#about .name")).to_contain_text("wide")
    return tab


def test_the_default_model_is_chosen_and_answers(tab: Page) -> None:
    chooser = tab.get_by_label("Model", exact=True)
    expect(chooser.locator("option")).to_have_text(["looking", "small", "wide (default)"])
    expect(chooser).to_have_value("wide")
    tab.set_input_files("#files", RED)
    expect(tab.locator(".card .top")).to_have_text("D")
    expect(tab.locator(".card .by")).to_have_text("answered by wide")


def test_another_model_can_be_chosen_with_the_keyboard_and_stays_chosen(tab: Page) -> None:
    tab.locator("#files").focus()
    tab.keyboard.press("Shift+Tab")
    assert tab.evaluate("document.activeElement.id") == "choice"
    tab.keyboard.press("ArrowUp")
    expect(tab.locator("#about .name")).to_have_text("small version 1")
    tab.set_input_files("#files", RED)
    expect(tab.locator(".card .top")).to_have_text("d")
    expect(tab.locator(".card .by")).to_have_text("answered by small")
    with tab.expect_response("**/models"):
        tab.evaluate("""() => {                 // as after the service was away for a moment
            document.getElementById("state").textContent = "away";
            document.dispatchEvent(new Event("visibilitychange"));
        }""")
    expect(tab.get_by_label("Model", exact=True)).to_have_value("small")
    expect(tab.locator("#about .name")).to_have_text("small version 1")


def test_the_words_are_about_the_chosen_model(tab: Page) -> None:
    says = "A network looks at it and says which of 4 things it sees."
    looks = "A network that pays attention looks at it, says which of 4 things it sees, and shows where it looks."
    misses = "so it misses details in crowded pictures."
    for model, lede, note in (
        ("small", says, f"It sees pictures at 8\u00a0×\u00a08 pixels, {misses}"),
        ("looking", looks, f"It sees pictures at 6\u00a0×\u00a04 pixels, {misses}"),
        ("wide", says, "It sees pictures at 224\u00a0×\u00a0224 pixels."),
    ):
        tab.get_by_label("Model", exact=True).select_option(model)
        expect(tab.locator("#lede")).to_have_text(lede)
        expect(tab.locator("#model-note")).to_have_text(note)


def test_each_answer_keeps_the_attention_of_the_model_that_gave_it(tab: Page) -> None:
    tab.get_by_label("Model", exact=True).select_option("looking")
    tab.set_input_files("#files", BLUE)
    expect(tab.locator(".card .by")).to_have_text("answered by looking")
    tab.get_by_label("Model", exact=True).select_option("wide")
    tab.set_input_files("#files", RED)
    cards = tab.locator(".card")
    expect(cards.first.locator(".by")).to_have_text("answered by wide")
    expect(cards.first.locator("details")).to_have_count(0)
    cards.last.get_by_text("Where it looks").click()
    expect(cards.last.locator(".gaze + .note")).to_contain_text("of its attention")
    expect(cards.last.get_by_label("Layer").locator("option")).to_have_text(["looking, 4\u00a0×\u00a06"])


def test_what_the_network_gets_is_drawn_smooth_where_it_is_a_picture(tab: Page) -> None:
    tab.set_input_files("#files", RED)
    expect(tab.locator(".seen canvas")).to_be_visible()
    expect(tab.locator(".seen canvas.coarse")).to_have_count(0)
    tab.get_by_role("button", name="Remove red.png").click()
    tab.get_by_label("Model", exact=True).select_option("small")
    expect(tab.locator("#about .name")).to_contain_text("small")
    tab.set_input_files("#files", RED)
    expect(tab.locator(".seen canvas.coarse")).to_be_visible()


def test_the_models_fit_a_phone(browser: Browser, models: RunningService) -> None:
    context = browser.new_context(
        base_url=str(models.client.base_url), has_touch=True, viewport={"width": 360, "height": 800}
    )
    tab = context.new_page()
    tab.goto("/")
    chooser = tab.get_by_label("Model", exact=True)
    expect(chooser).to_be_visible()
    box, drop = chooser.bounding_box(), tab.locator("#drop").bounding_box()
    assert box["y"] + box["height"] <= drop["y"]  # before the pictures, not below all answers
    assert box["height"] >= 24
    chooser.select_option("small")
    tab.set_input_files("#files", RED)
    expect(tab.locator(".card .by")).to_have_text("answered by small")
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    context.close()
