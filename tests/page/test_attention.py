"""Where it looks: people move over the picture, with a mouse, a finger or the keyboard, and see each head's map."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests.helpers import EXAMPLES, RunningService, running_service
from tests.looking_bundle import COLUMNS, LAYER, RIGHT, ROWS, looking_picture, write_looking_bundle
from tests.toy_bundles import picture, write_fragile_bundle

CAT = EXAMPLES / "cat.jpg"
# The mean brightness of each cell of a canvas, row by row, and its corners left out, where a frame may be.
BRIGHTNESS = """(canvas, [rows, columns]) => {
    const pen = canvas.getContext("2d"), found = [];
    const [width, height] = [canvas.width / columns, canvas.height / rows];
    for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) {
        const {data} = pen.getImageData((column + .3) * width, (row + .3) * height, width * .4, height * .4);
        found.push(data.reduce((sum, value, i) => i % 4 < 3 ? sum + value : sum, 0) / data.length);
    }
    return found;
}"""


def in_words(service: RunningService, **params: Any) -> str:
    """What the page is to say of what the service answers."""
    headers = {"Content-Type": "image/jpeg"}
    answer = service.client.post("/explain", content=CAT.read_bytes(), params=params, headers=headers).json()
    [layer] = answer["layers"]
    [head] = layer["heads"]
    shares = [share for row in head["attention"] for share in row]
    row, column = divmod(shares.index(max(shares)), layer["grid"][1])
    who = "On average it looks"
    if layer["query"]:
        who = f"From row {layer['query'][0] + 1}, column {layer['query'][1] + 1} it looks"
    return f"{who} most at row {row + 1}, column {column + 1}: {max(shares) * 100:.1f} % of its attention."


def unfolded(tab: Page, file: Path | dict = CAT) -> Locator:
    """The part of the answer that shows attention, once its first map is there."""
    tab.goto("/")
    tab.locator("#about .name").wait_for()
    tab.set_input_files("#files", file)
    part = tab.locator(".card details")
    part.get_by_text("Where it looks").click()
    expect(part.locator(".note")).to_contain_text("of its attention")
    return part


def move_to(part: Locator, row: float, column: float, grid: tuple[int, int] = (8, 8)) -> dict:
    """Where in the canvas that cell is, for the mouse."""
    box = part.locator("canvas").bounding_box()
    return {"x": (column + 0.5) / grid[1] * box["width"], "y": (row + 0.5) / grid[0] * box["height"]}


def test_moving_over_the_picture_shows_where_each_place_looks(tab: Page, service: RunningService) -> None:
    part = unfolded(tab)
    words, canvas = part.locator(".note"), part.locator("canvas")
    average = in_words(service, layer="layer3.2.conv1", head="mean")
    expect(words).to_have_text(f"{average} Move over the picture to see where each position looks.")
    looks = [canvas.evaluate("canvas => canvas.toDataURL()")]
    for row, column in ((0, 0), (2, 5), (7, 7)):
        canvas.hover(position=move_to(part, row, column))
        position = f"{(column + 0.5) / 8},{(row + 0.5) / 8}"
        expect(words).to_have_text(in_words(service, layer="layer3.2.conv1", head="mean", position=position))
        looks.append(canvas.evaluate("canvas => canvas.toDataURL()"))
    assert len(set(looks)) == 4
    tab.mouse.move(0, 0)
    expect(words).to_contain_text(average)


def test_layers_and_heads_can_be_chosen_and_are_asked_for_once(tab: Page, service: RunningService) -> None:
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url) if "/explain" in request.url else None)
    part = unfolded(tab)
    assert len(asked) == 1
    assert part.get_by_label("Layer").locator("option").all_text_contents() == [
        f"layer3.{i}.conv1, 8\u00a0×\u00a08" for i in range(3)
    ]
    assert part.get_by_label("Head").locator("option").all_text_contents() == [
        "mean of all heads",
        *(f"head {i}" for i in range(4)),
    ]
    part.get_by_label("Head").select_option("head 2")
    expect(part.locator(".note")).to_contain_text(in_words(service, layer="layer3.2.conv1", head=2))
    part.get_by_label("Layer").select_option("layer3.0.conv1")
    expect(part.locator(".note")).to_contain_text(in_words(service, layer="layer3.0.conv1", head=2))
    assert part.get_by_label("Head").input_value() == "2"
    part.get_by_label("Layer").select_option("layer3.2.conv1")
    expect(part.locator(".note")).to_contain_text(in_words(service, layer="layer3.2.conv1", head=2))
    assert len(asked) == 3


def test_the_arrow_keys_do_what_the_mouse_does_and_are_read_out(tab: Page, service: RunningService) -> None:
    part = unfolded(tab)
    canvas = part.locator("canvas")
    canvas.focus()
    for key, row, column in (("ArrowDown", 4, 4), ("ArrowLeft", 4, 3), ("ArrowUp", 3, 3), ("ArrowRight", 3, 4)):
        tab.keyboard.press(key)
        position = f"{(column + 0.5) / 8},{(row + 0.5) / 8}"
        expected = in_words(service, layer="layer3.2.conv1", head="mean", position=position)
        expect(part.locator(".note")).to_have_text(expected)
        expect(tab.get_by_role("status")).to_have_text(expected)
    for _ in range(9):
        tab.keyboard.press("ArrowUp")
    expect(part.locator(".note")).to_contain_text("From row 1, column 5 ")
    tab.keyboard.press("Escape")
    expect(part.locator(".note")).to_contain_text("On average")
    assert tab.get_by_role("application", name="Where it looks in cat.jpg").count() == 1


def test_a_finger_may_touch_a_place_and_be_taken_away(browser: Browser, service: RunningService) -> None:
    context = browser.new_context(
        base_url=str(service.client.base_url), has_touch=True, viewport={"width": 360, "height": 800}
    )
    tab = context.new_page()
    part = unfolded(tab)
    part.locator("canvas").tap(position=move_to(part, 1, 6))
    expect(part.locator(".note")).to_contain_text("From row 2, column 7 ")
    part.get_by_label("Head").select_option("head 1")
    expected = in_words(service, layer="layer3.2.conv1", head=1, position="0.8,0.2")
    expect(part.locator(".note")).to_have_text(expected)  # the place stays, to compare heads
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    context.close()


def test_a_map_that_is_refused_is_said_so_and_asked_for_again(tab: Page) -> None:
    problem = {"title": "Too Many Requests", "status": 429, "detail": "the queue is full", "code": "queue_full"}
    tab.route("**/explain*", lambda route: route.fulfill(status=429, json=problem), times=1)
    tab.goto("/")
    tab.locator("#about .name").wait_for()
    tab.set_input_files("#files", CAT)
    part = tab.locator(".card details")
    part.get_by_text("Where it looks").click()
    expect(part.locator(".note")).to_have_text("No map: the queue is full.")
    for _ in range(2):
        part.get_by_text("Where it looks").click()
    expect(part.locator(".note")).to_contain_text("On average")


@pytest.fixture
def toy_tab(request: pytest.FixtureRequest, browser: Browser, tmp_path: Path) -> Iterator[Page]:
    """The page before the bundle that `request.param` writes."""
    request.param(tmp_path)
    with running_service(repository=tmp_path) as running:
        context: BrowserContext = browser.new_context(base_url=str(running.client.base_url))
        yield context.new_page()
        context.close()


@pytest.mark.parametrize("toy_tab", [write_looking_bundle], indirect=True)
def test_the_drawing_shows_where_a_known_network_looks(toy_tab: Page) -> None:
    upload = {"name": "blue.png", "mimeType": "image/png", "buffer": looking_picture()}
    part = unfolded(toy_tab, upload)
    part.get_by_label("Head").select_option(f"head {RIGHT}")
    for row, column in ((1, 2), (3, 0)):
        part.locator("canvas").hover(position=move_to(part, row, column, (ROWS, COLUMNS)))
        expect(part.locator(".note")).to_have_text(
            f"From row {row + 1}, column {column + 1} it looks most at row {row + 1}, column {column + 2}: "
            "100.0 % of its attention."
        )
        bright = part.locator("canvas").evaluate(BRIGHTNESS, [ROWS, COLUMNS])
        assert bright.index(max(bright)) == row * COLUMNS + column + 1
    assert part.get_by_label("Layer").input_value() == LAYER


@pytest.mark.parametrize("toy_tab", [write_fragile_bundle], indirect=True)
def test_a_model_without_maps_has_nothing_to_unfold(toy_tab: Page) -> None:
    toy_tab.goto("/")
    toy_tab.locator("#about .name").wait_for()
    toy_tab.set_input_files("#files", {"name": "red.png", "mimeType": "image/png", "buffer": picture(1)})
    expect(toy_tab.locator(".card .top")).to_have_text("b")
    expect(toy_tab.locator(".card details")).to_have_count(0)
