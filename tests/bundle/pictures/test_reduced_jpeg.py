"""JPEG pictures at a reduced size: large enough, in the right place, and refused as at their full size."""

import functools
import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from aaserve.bundle import preprocessing
from aaserve.bundle.errors import ImageError, ImageTooLarge
from aaserve.bundle.manifest import Manifest
from aaserve.bundle.pictures import resizing
from aaserve.bundle.pictures.decoding import decode, decode_reduced
from aaserve.bundle.pictures.resizing import Box
from aaserve.bundle.preprocessing import Preprocessing, read_pixels
from tests.bundle.pictures.test_decoding import TRANSPOSES
from tests.bundle.test_preprocessing import SPEC, spec
from tests.helpers import BAD_IMAGES, EXAMPLES, REPOSITORY, encode, photograph
from tests.hostile.bad_pictures import damaged_pictures

IN_FULL = spec(resize=32, crop=(32, 32), interpolation="bicubic")
REDUCED = spec(resize=32, crop=(32, 32), interpolation="bicubic", jpeg_reducing_gap=2)
sides = st.integers(1, 700)


def outcome(image_bytes: bytes, preprocessing: Preprocessing) -> str:
    try:
        return str(read_pixels(image_bytes, preprocessing, max_pixels=50_000_000).shape)
    except ImageError as error:
        return f"{type(error).__name__}: {error}"


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@functools.cache
def ramp(height: int, width: int) -> Image.Image:
    """Red grows to the right, green downwards; blue is even."""
    pixels = np.full((height, width, 3), 128)
    pixels[..., 0], pixels[..., 1] = np.linspace(0, 255, width), np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels.astype(np.uint8))


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(sides, sides),
    resize=st.integers(1, 90) | st.tuples(st.integers(1, 90), st.integers(1, 90)),
    gap=st.floats(2, 10),
    orientation=st.sampled_from([*range(10)]),
    applied=st.booleans(),
)
@example(size=(128, 400), resize=(32, 32), gap=2.01, orientation=1, applied=True)  # half is 64, the gap 64.32
@example(size=(800, 200), resize=(200, 50), gap=2.0, orientation=6, applied=True)  # as large as needed once upright
def test_no_picture_is_decoded_below_the_gap_nor_larger_than_it_needs_to_be(
    size: tuple[int, int], resize: int | tuple[int, int], gap: float, orientation: int, applied: bool
) -> None:
    crop = resize if isinstance(resize, tuple) else (resize, resize)
    chosen = spec(resize=resize, crop=crop, jpeg_reducing_gap=gap, exif_orientation=applied)
    image_bytes = encode(Image.new("RGB", size), "JPEG", exif=turned(orientation))
    seen = {}

    def watch(image: Image.Image, size: tuple[int, int], box: Box, *how: object, **more: bool) -> np.ndarray:
        seen["decoded"] = image.size
        assert 0 <= box[0] < box[2] <= image.width
        assert 0 <= box[1] < box[3] <= image.height
        return resizing.resize(image, size, box, *how, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocessing, "resize", watch)
        read_pixels(image_bytes, chosen, max_pixels=10**6)
    width, height = size[::-1] if applied and orientation in (5, 6, 7, 8) else size
    shorter = min(size)
    need = resize[::-1] if isinstance(resize, tuple) else (resize * width // shorter, resize * height // shorter)
    scales = [scale for scale in (1, 2, 4, 8) if width >= scale * gap * need[0] and height >= scale * gap * need[1]]
    # Pillow asks in whole pixels, so a picture that is just large enough may be decoded at the next larger size
    allowed = {max(scales, default=1), max(scales[:-1], default=1)}
    assert seen["decoded"] in {(-(-width // scale), -(-height // scale)) for scale in allowed}
    if all(width >= scale * np.ceil(gap * need[0]) and height >= scale * np.ceil(gap * need[1]) for scale in scales):
        scale = max(scales, default=1)
        assert seen["decoded"] == (-(-width // scale), -(-height // scale))


@pytest.mark.parametrize("orientation", TRANSPOSES)
@pytest.mark.parametrize("size", [(513, 1025), (1031, 517)], ids=str)
@pytest.mark.parametrize("resize", [32, (32, 40)], ids=str)
def test_a_reduced_picture_lies_where_the_full_one_does(
    orientation: int, size: tuple[int, int], resize: int | tuple[int, int]
) -> None:
    upright = ramp(*size)
    transpose = TRANSPOSES[orientation]
    stored = upright if transpose is None else upright.transpose(transpose)
    image_bytes = encode(stored, "JPEG", quality=98, subsampling=0, exif=turned(orientation))
    found, expected = (
        read_pixels(image_bytes, spec(resize=resize, crop=(32, 32), jpeg_reducing_gap=gap), max_pixels=10**6)
        for gap in (2, None)
    )
    decoded = decode_reduced(
        image_bytes, max_pixels=10**6, background=(0, 0, 0), exif_orientation=True, least_size=lambda *_: (80, 80)
    )
    assert min(decoded.image.size) < 140
    assert np.abs(found.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("kind", ["CMYK", "L", "progressive", "restarts", "4:2:0"])
def test_every_kind_of_jpeg_can_be_reduced(kind: str) -> None:
    image = photograph().convert(kind) if kind in ("CMYK", "L") else photograph()
    options = {
        "progressive": {"progressive": True},
        "restarts": {"restart_marker_blocks": 3},
        "4:2:0": {"subsampling": 2},
    }
    image_bytes = encode(image, "JPEG", quality=95, **options.get(kind, {}))
    found, expected = (read_pixels(image_bytes, chosen, max_pixels=10**6) for chosen in (REDUCED, IN_FULL))
    assert 0 < np.abs(found.astype(int) - expected).mean() < 4
    halved = decode_reduced(
        image_bytes,
        max_pixels=10**6,
        background=(0, 0, 0),
        exif_orientation=True,
        least_size=lambda w, h: (w / 3, h / 3),
    )
    assert halved.image.size == (-(-image.width // 2), -(-image.height // 2))


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_other_formats_are_decoded_in_full(image_format: str) -> None:
    image_bytes = encode(photograph(), image_format)
    np.testing.assert_array_equal(*(read_pixels(image_bytes, one, max_pixels=10**6) for one in (REDUCED, IN_FULL)))


def test_a_picture_that_is_too_small_to_be_reduced_keeps_its_pixels() -> None:
    image_bytes = encode(photograph().resize((127, 127)), "JPEG")
    np.testing.assert_array_equal(*(read_pixels(image_bytes, one, max_pixels=10**6) for one in (REDUCED, IN_FULL)))


def test_the_limit_counts_the_pixels_of_the_full_size() -> None:
    image_bytes = encode(Image.new("RGB", (800, 600)), "JPEG")
    read_pixels(image_bytes, REDUCED, max_pixels=480_000)
    with pytest.raises(ImageTooLarge, match="800x600 = 480000 pixels; the limit is 479999"):
        read_pixels(image_bytes, REDUCED, max_pixels=479_999)


def test_truncated_and_damaged_pictures_get_the_same_answers() -> None:
    for whole in (encode(photograph(), "JPEG"), encode(photograph(), "JPEG", progressive=True)):
        for length in range(1, len(whole), len(whole) // 40):
            assert outcome(whole[:length], REDUCED) == outcome(whole[:length], IN_FULL), length
    for _, image_bytes in damaged_pictures(400, seed=5):
        assert outcome(image_bytes, REDUCED) == outcome(image_bytes, IN_FULL)


@pytest.mark.skipif(not BAD_IMAGES.is_dir(), reason="the data set bad_images is not here")
def test_bad_pictures_of_others_get_the_same_answers() -> None:
    paths = [path for path in sorted(BAD_IMAGES.iterdir()) if path.is_file()]
    assert len(paths) > 50
    for path in paths:
        assert outcome(path.read_bytes(), REDUCED) == outcome(path.read_bytes(), IN_FULL), path.name


def test_a_bundle_that_does_not_mention_it_reads_pictures_in_full() -> None:
    text = (REPOSITORY / "aa-cifar100" / "1" / "manifest.json").read_text()
    assert "jpeg_reducing_gap" not in text
    manifest = Manifest.model_validate_json(text)
    image_bytes = (EXAMPLES / "rocket.jpg").read_bytes()
    image = decode(image_bytes, max_pixels=10**6, background=(255, 255, 255), exif_orientation=True)
    assert image.size == photograph().size
    found = read_pixels(image_bytes, manifest.preprocessing, max_pixels=10**6)
    np.testing.assert_array_equal(found, read_pixels(encode(image, "PNG"), manifest.preprocessing, max_pixels=10**6))
    assert manifest.model_dump()["preprocessing"] == json.loads(text, object_hook=_tuples)["preprocessing"]


def _tuples(found: dict[str, object]) -> dict[str, object]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}


def test_the_manifest_mentions_only_the_steps_that_are_done() -> None:
    assert set(spec().model_dump(mode="json")) == set(SPEC)
    assert spec(jpeg_reducing_gap=3).model_dump(mode="json")["jpeg_reducing_gap"] == 3
    assert Preprocessing.model_validate_json(REDUCED.model_dump_json()) == REDUCED


@pytest.mark.parametrize("gap", [1.99, 0, -2, float("nan"), float("inf"), "half"], ids=str)
def test_a_gap_below_two_or_without_sense_is_refused(gap: object) -> None:
    with pytest.raises(ValidationError, match="jpeg_reducing_gap"):
        spec(jpeg_reducing_gap=gap)
