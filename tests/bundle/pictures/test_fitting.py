"""Pictures of any shape go into the input, and boxes come back to where they were in the picture."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from aaserve.bundle.pictures.fitting import Placement, placement, to_input, to_picture
from aaserve.bundle.preprocessing import Preprocessing, read_picture, read_pixels
from tests.encoders import jpeg_segment, tiff_file, with_segment
from tests.helpers import encode

INPUT = (64, 80)  # (height, width)
GREY = (114, 114, 114)
SHAPES = [(640, 480), (480, 640), (80, 64), (7, 5), (3000, 100), (100, 3000), (1, 1), (30_000, 1)]


def spec(fit: str, **changes: object) -> Preprocessing:
    fields = {
        "colour": "RGB",
        "background": GREY,
        "exif_orientation": True,
        "interpolation": "bilinear",
        "fit": fit,
        "crop": INPUT,
        "mean": (0, 0, 0),
        "std": (1, 1, 1),
    }
    return Preprocessing.model_validate(fields | changes)


def marked(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    """A black picture with a white box."""
    image = Image.new("RGB", (width, height))
    image.paste((255, 255, 255), box)
    return image


def found_box(pixels: np.ndarray) -> np.ndarray:
    """Where it is white."""
    rows, columns = np.nonzero(pixels.min(axis=2) > 127)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


FITS = [spec("stretch"), spec("letterbox"), spec("crop", resize=90), spec("crop", resize=(70, 100))]


@pytest.mark.parametrize("chosen", FITS, ids=lambda chosen: f"{chosen.fit} {chosen.resize}")
@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((640, 480), (200, 160, 400, 320)),
        ((480, 640), (120, 240, 360, 400)),
        ((400, 1000), (100, 450, 300, 550)),
    ],
    ids=str,
)
def test_a_box_is_found_again_where_it_is_in_the_picture(
    chosen: Preprocessing, size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    pixels, found_size = read_picture(encode(marked(*size, box), "PNG"), chosen, max_pixels=10**7)
    assert (pixels.shape, found_size) == ((*INPUT, 3), size)
    placed = placement(chosen, *size)
    pixel = max(size[0] / placed.width, size[1] / placed.height)  # of the input, in those of the picture
    np.testing.assert_allclose(to_picture(found_box(pixels), placed, *size), box, atol=pixel)


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
@pytest.mark.parametrize("size", SHAPES, ids=str)
def test_the_whole_picture_comes_back_as_it_was(fit: str, size: tuple[int, int]) -> None:
    chosen = spec(fit)
    placed = placement(chosen, *size)
    assert placed[2:] == (0, 0)
    whole = np.array([0, 0, *size])
    inside = to_input(whole, placed, *size)
    np.testing.assert_allclose(inside, [0, 0, placed.width, placed.height])
    np.testing.assert_allclose(to_picture(inside, placed, *size), whole)
    pixels, found_size = read_picture(encode(Image.new("RGB", size), "PNG"), chosen, max_pixels=10**7)
    assert (pixels.shape, found_size) == ((*INPUT, 3), size)


@pytest.mark.parametrize("size", SHAPES, ids=str)
def test_a_letterbox_keeps_the_shape_and_fills_the_rest_with_the_background(size: tuple[int, int]) -> None:
    placed = placement(spec("letterbox"), *size)
    assert placed.width == INPUT[1] or placed.height == INPUT[0]
    scale = min(INPUT[1] / size[0], INPUT[0] / size[1])
    np.testing.assert_allclose(placed[:2], np.maximum(1, np.array(size) * scale), atol=0.5)
    pixels = read_pixels(encode(Image.new("RGB", size), "PNG"), spec("letterbox"), max_pixels=10**7)
    assert (pixels[: placed.height, : placed.width] == 0).all()
    assert (pixels[placed.height :] == GREY).all()
    assert (pixels[:, placed.width :] == GREY).all()


def test_boxes_are_clipped_to_the_picture_and_keep_their_axes() -> None:
    placed = placement(spec("letterbox"), 160, 64)  # half as large, 80 x 32
    assert placed == Placement(80, 32, 0, 0)
    boxes = np.array([[[-5, 4, 20, 90], [60, 40, 95, 64]], [[0, 0, 1, 1], [1, 2, 3, 4]]], np.float32)  # (2, 2, 4)
    expected = [[[0, 8, 40, 64], [120, 64, 160, 64]], [[0, 0, 2, 2], [2, 4, 6, 8]]]
    np.testing.assert_array_equal(to_picture(boxes, placed, 160, 64), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("gap", [None, 2])
def test_sizes_and_boxes_are_those_of_the_upright_picture(orientation: int, gap: int | None) -> None:
    """Also of one that is decoded at a reduced size, with sides that no power of two divides."""
    stored = marked(1003, 597, (300, 100, 700, 300))
    jpeg = encode(stored, "JPEG", quality=95)
    turned = with_segment(jpeg, jpeg_segment(0xE1, b"Exif\0\0" + tiff_file(b"", {274: (3, [orientation])}, order=">")))
    chosen = spec("letterbox", jpeg_reducing_gap=gap)
    pixels, size = read_picture(turned, chosen, max_pixels=10**7)
    upright, expected_size = read_picture(encode(_upright(stored, orientation), "PNG"), chosen, max_pixels=10**7)
    assert size == expected_size == ((597, 1003) if orientation >= 5 else (1003, 597))
    np.testing.assert_allclose(found_box(pixels), found_box(upright), atol=1)
    as_stored = read_picture(turned, chosen.model_copy(update={"exif_orientation": False}), max_pixels=10**7)
    assert as_stored[1] == (1003, 597)


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    image.getexif()[274] = orientation
    turned = ImageOps.exif_transpose(image)
    image.getexif().clear()
    return turned


def test_a_gif_has_the_size_of_its_canvas() -> None:
    frames = [Image.new("P", (20, 10)), Image.new("P", (20, 10), 1)]
    gif = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_picture(gif, spec("letterbox"), max_pixels=1000)[1] == (20, 10)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"fit": "letterbox", "resize": 64}, "fit letterbox takes no resize, found 64"),
        ({"fit": "stretch", "resize": (64, 80)}, "fit stretch takes no resize"),
        ({"fit": "crop"}, "expected resize, found none"),
        ({"fit": "pad"}, "Input should be 'crop', 'stretch' or 'letterbox'"),
    ],
    ids=str,
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        spec(**changes)


def test_manifests_from_before_are_written_as_they_were() -> None:
    dumped = spec("crop", resize=90).model_dump(mode="json")
    assert "fit" not in dumped
    assert dumped["resize"] == 90
    assert "resize" not in spec("letterbox").model_dump(mode="json")
