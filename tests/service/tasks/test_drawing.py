"""A picture and what was found in it --> a PNG: labels lie inside of the picture, wherever the boxes are."""

import io
from typing import Any

import pytest
from PIL import Image, ImageDraw

from aaserve.bundle.bundle import MANIFEST_FILE
from aaserve.bundle.manifest import Manifest
from aaserve.service.tasks.detection import Detection
from aaserve.service.tasks.drawing import draw
from tests.helpers import SHIPPED, encode, noise

MANIFEST = Manifest.model_validate_json((SHIPPED / "aa-blood-cells" / "1" / MANIFEST_FILE).read_text())
LONG = "a label that has many words, more than a narrow picture has room for"


@pytest.mark.parametrize("label", ["cell", LONG])
@pytest.mark.parametrize("size", [(640, 480), (50, 900), (1500, 12), (3, 3)], ids=str)
@pytest.mark.parametrize(
    "place", [(0, 0, 0.1, 0.1), (0.9, 0, 1, 0.1), (0, 0.9, 0.1, 1), (0.9, 0.9, 1, 1), (0, 0, 1, 1)]
)
def test_the_label_of_a_box_is_inside_of_the_picture(
    size: tuple[int, int], label: str, place: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []
    write = ImageDraw.ImageDraw.text

    def watched(pen: ImageDraw.ImageDraw, xy: Any, text: str, fill: Any, font: Any) -> None:
        places.append(pen.textbbox(xy, text, font))
        write(pen, xy, text, fill, font)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", watched)
    width, height = size
    left, top, right, bottom = place
    found: Detection = {
        "label": label,
        "class_index": 0,
        "score": 0.9,
        "box": {"left": left * width, "top": top * height, "right": right * width, "bottom": bottom * height},
    }
    picture = encode(noise(height, width), "PNG")
    drawn = Image.open(io.BytesIO(draw(picture, [found], MANIFEST.preprocessing, max_pixels=1_000_000)))
    [(x, y, end_x, end_y)] = places
    assert 0 <= x < end_x <= drawn.width
    assert 0 <= y < end_y <= drawn.height
