"""POST /detect with Accept: image/png answers the picture with the boxes drawn into it."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.detector_bundle import coloured, coloured_png
from tests.helpers import RunningService, encode
from tests.service.http.routes.detecting import BLUE, HEIGHT, PNG, RED, WIDTH, refused


def test_the_drawn_picture_has_a_box_where_the_detection_is(detector: RunningService) -> None:
    response = detector.client.post(
        "/detect", content=PNG, headers={"Content-Type": "image/png", "Accept": "image/png"}
    )
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    assert response.headers["vary"] == "Accept"
    assert "render;dur=" in response.headers["server-timing"]
    with Image.open(io.BytesIO(response.content)) as drawn:
        assert drawn.size == (WIDTH, HEIGHT)
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    plain = np.asarray(coloured(WIDTH, HEIGHT, red=(RED, 204), blue=(BLUE, 255))).astype(int)
    changed = np.abs(pixels - plain).max(axis=2) > 20
    left, top, right, bottom = RED
    assert changed[top + 5 : bottom - 5, left].all()  # the lines of the box
    assert changed[bottom - 1, left + 5 : right - 5].all()
    assert not changed[top + 40 : bottom - 5, left + 5 : right - 5].any()  # what is inside is as it was
    assert changed[top - 12 : top, left : left + 30].any()  # the label above it
    nothing = detector.client.post(
        "/detect", content=coloured_png(600, 400), headers={"Content-Type": "image/png", "Accept": "image/*"}
    )
    with Image.open(io.BytesIO(nothing.content)) as drawn:
        assert drawn.convert("L").getextrema() == (0, 0)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((32, 24), (448, 336)), ((4000, 2000), (1600, 800)), ((3000, 100), (1600, 53)), ((30, 900), (30, 900))],
    ids=str,
)
def test_the_drawn_picture_has_a_size_that_can_be_looked_at(
    detector: RunningService, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    image = coloured_png(*size, red=((0, 0, size[0], size[1]), 255))
    for sent in (image, encode(Image.open(io.BytesIO(image)), "JPEG")):
        response = detector.client.post(
            "/detect", content=sent, headers={"Content-Type": "image/png", "Accept": "image/png"}
        )
        with Image.open(io.BytesIO(response.content)) as drawn:
            assert drawn.size == expected


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("*/*", "application/json"),
        ("", "application/json"),
        ("application/json, image/png;q=0.5", "application/json"),
        ("image/png, application/json;q=0.5", "image/png"),
    ],
)
def test_accept_chooses_the_form(detector: RunningService, accept: str, media_type: str) -> None:
    response = detector.client.post("/detect", content=PNG, headers={"Content-Type": "image/png", "Accept": accept})
    assert response.headers["content-type"] == media_type


def test_a_form_that_is_not_offered_is_refused(detector: RunningService) -> None:
    response = detector.client.post(
        "/detect", content=PNG, headers={"Content-Type": "image/png", "Accept": "text/html"}
    )
    assert refused(response) == (406, "not_acceptable", "Accept: offered are application/json, image/png")
