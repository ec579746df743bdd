"""A model of detection behind the page: boxes over the picture, and a slider for the least score."""

import hashlib
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.detector_bundle import NAME, SIZE, coloured, coloured_png, write_detector
from tests.helpers import RunningService, running_service
from tests.page.cards import card
from tests.toy_bundles import picture, write_fragile_bundle

RED, BLUE = (100, 60, 300, 200), (400, 300, 640, 480)
COLOURS = {
    "name": "colours.png",
    "mimeType": "image/png",
    "buffer": coloured_png(640, 480, red=(RED, 204), blue=(BLUE, 255), green=((0, 400, 50, 480), 102)),
}

REFERENCE = coloured(*SIZE[::-1], green=((9, 9, 30, 30), 255))


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    repository = tmp_path_factory.mktemp("repository")
    write_detector(repository)
    write_detector(repository, name="with-pictures", pictures=[np.asarray(REFERENCE)])
    write_fragile_bundle(repository, name="small")
    (repository / "serving.toml").write_text(f'default_model = "{NAME}"\n')
    with running_service(repository=repository) as running:
        yield running


@pytest.fixture
def shown(detector: RunningService) -> RunningService:
    return detector


@pytest.fixture
def answered(tab: Page) -> Page:
    """The page with an answer."""
    tab.goto("/")
    tab.set_input_files("#files", COLOURS)
    expect(tab.locator(".card .top")).to_have_text("1 blue, 1 red")
    return tab


def test_boxes_lie_over_the_picture_where_the_objects_are(answered: Page) -> None:
    expect(answered.get_by_role("status")).to_have_text("colours.png: 1 blue, 1 red")
    expect(answered.locator(".card .bars li")).to_have_text(["blue100.0 %", "red80.0 %"])
    expect(answered.locator(".card svg text")).to_have_text(["red 0.80", "blue 1.00"])  # the best one on top
    image = answered.locator(".picture img").bounding_box()
    scale = image["width"] / 640
    for number, (left, top, right, bottom) in enumerate((RED, BLUE)):
        box = answered.locator(".card svg g").nth(number).locator("rect").last.bounding_box()
        found = ((box["x"] - image["x"]) / scale, (box["y"] - image["y"]) / scale, box["width"] / scale)
        assert found == pytest.approx((left, top, right - left), abs=6)
        assert box["height"] / scale == pytest.approx(bottom - top, abs=6)


def test_the_label_of_a_box_is_inside_of_the_picture(tab: Page) -> None:
    """A box in a corner, with this share of the picture's width and height."""
    pictures, sizes = {}, {}
    for (width, height), share in (((640, 480), 0.1), ((60, 900), 1), ((900, 30), 0.5)):
        for x, y in product((0, 1 - share), repeat=2):
            area = (int(x * width), int(y * height), int((x + share) * width), int((y + share) * height))
            name = f"{area} of {width}, {height}.png"
            pictures[name], sizes[name] = coloured_png(width, height, red=(area, 255)), (width, height)
    tab.goto("/")
    tab.set_input_files("#files", [{**COLOURS, "name": name, "buffer": image} for name, image in pictures.items()])
    measure = "text => { const {x, y, width, height} = text.getBBox(); return [x, y, x + width, y + height]; }"
    for name, (width, height) in sizes.items():
        answer = card(tab, name)
        answer.get_by_label("Least score").press("Home")
        left, top, right, bottom = answer.locator(".picture svg text").evaluate(measure)  # in pixels of the picture
        assert 0 <= left < right <= width, name
        assert 0 <= top < bottom <= height, name


def test_the_slider_chooses_the_least_score_with_the_keyboard(answered: Page) -> None:
    slider = answered.get_by_label("Least score")
    expect(slider).to_have_value("0.5")
    slider.focus()
    answered.keyboard.press("Home")
    expect(answered.locator(".card .top")).to_have_text("1 blue, 1 red, 1 green")
    answered.keyboard.press("End")
    expect(answered.locator(".card .top")).to_have_text("1 blue")
    expect(answered.locator(".card svg g")).to_have_count(1)
    answered.keyboard.press("Home")
    for _ in range(40):
        answered.keyboard.press("ArrowRight")
    expect(answered.locator(".threshold .share")).to_have_text("40.0 %")
    expect(answered.locator(".card svg g")).to_have_count(3)
    answered.keyboard.press("ArrowRight")
    expect(answered.locator(".card svg g")).to_have_count(2)


def test_the_card_says_what_it_finds_and_how_well(answered: Page) -> None:
    expect(answered.locator("#lede")).to_have_text(
        "A network looks at it and marks the objects that it finds, of 3 kinds."
    )
    about = answered.locator("#about")
    expect(about).to_contain_text("90.0 %AP at an IoU of 0.5")
    expect(about).to_contain_text("boxes overlap by 100.0 % or more in 1 pictures")


def test_a_picture_with_nothing_in_it_says_so(tab: Page) -> None:
    tab.goto("/")
    tab.set_input_files("#files", {**COLOURS, "buffer": coloured_png(64, 48)})
    expect(tab.locator(".card .top")).to_have_text("nothing with such a score")
    expect(tab.locator(".card svg g")).to_have_count(0)


def test_each_model_is_asked_at_the_address_of_its_task(answered: Page) -> None:
    answered.get_by_label("Model", exact=True).select_option("small")
    expect(answered.locator("#about .name")).to_have_text("small version 1")
    answered.set_input_files("#files", {"name": "red.png", "mimeType": "image/png", "buffer": picture(3)})
    expect(answered.locator(".card .top").first).to_have_text("d")


def test_each_model_offers_pictures_that_suit_it(tab: Page) -> None:
    tab.goto("/")
    expect(tab.locator("#about .name")).to_have_text(f"{NAME} version 1")
    offered = tab.get_by_role("button", name="Try")
    expect(offered).to_have_count(0)
    expect(tab.get_by_text("or try")).to_be_hidden()
    choice = tab.get_by_label("Model", exact=True)
    choice.select_option("with-pictures")
    offered.get_by_alt_text("Try reference picture 1 of the model").click()
    expect(tab.locator(".card .top")).to_have_text("1 green")
    expect(offered).to_have_count(1)
    choice.select_option("small")
    expect(tab.get_by_role("button", name="Try the picture of a cat")).to_be_visible()
    expect(offered).to_have_count(2)
    choice.select_option(NAME)
    expect(offered).to_have_count(0)


def test_a_models_pictures_are_offered_once_the_key_is_given(browser: Browser, tmp_path: Path) -> None:
    write_detector(tmp_path, pictures=[np.asarray(REFERENCE)])
    keys = tmp_path / "keys"
    keys.write_text(f"infer {hashlib.sha256(b'infer').hexdigest()}\n")
    with (
        running_service("--api-keys-file", str(keys), repository=tmp_path) as keyed,
        browser.new_page(base_url=str(keyed.client.base_url)) as tab,
    ):
        tab.goto("/")
        tab.get_by_label("This service needs an API key").fill("infer")
        expect(tab.get_by_role("button", name="Try")).to_have_count(0)
        tab.get_by_role("button", name="Use this key").click()
        tab.get_by_role("button", name="Try reference picture 1 of the model").click()
        expect(tab.locator(".card .top")).to_have_text("1 green")
