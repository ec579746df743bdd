"""What is decoded in the event loop: the same rows, and nothing that could take long."""

import zlib

import numpy as np
import pytest
from PIL import Image

from bundle.bundle import open_bundle
from bundle.model_input import read_input
from service.small_pictures import SMALL_BYTES, read_small
from tests.encoders import png_chunk
from tests.helpers import REPOSITORY, RunningService, encode, noise

MANIFEST = open_bundle(REPOSITORY / "aa-cifar100" / "1").manifest
PNG = encode(noise(32, 32), "PNG")


def with_chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG with one more chunk right behind its header."""
    plain = flat((32, 32))
    return plain[:33] + png_chunk(kind, data) + plain[33:]


def flat(size: tuple[int, int]) -> bytes:
    return encode(Image.new("RGB", size, (1, 2, 3)), "PNG")


@pytest.mark.parametrize("picture", [PNG, encode(noise(32, 32), "JPEG"), encode(noise(20, 30), "WEBP"), flat((64, 64))])
def test_rows_are_those_of_the_ordinary_way(picture: bytes) -> None:
    row = read_small(picture, MANIFEST, max_pixels=10**6)
    assert row is not None
    np.testing.assert_array_equal(row, read_input(picture, MANIFEST, max_pixels=10**6))


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(encode(noise(64, 64), "PNG"), id="too many bytes"),
        pytest.param(flat((65, 64)), id="too many pixels"),
        pytest.param(flat((700, 700)), id="far too many pixels"),
        pytest.param(PNG[: len(PNG) // 2], id="truncated"),
        pytest.param(b"no picture", id="no picture"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_all_else_is_left_to_a_thread(picture: bytes) -> None:
    assert len(picture) <= SMALL_BYTES or picture == encode(noise(64, 64), "PNG")
    assert read_small(picture, MANIFEST, max_pixels=10**6) is None


def test_the_limit_of_the_settings_holds_here_too() -> None:
    assert read_small(PNG, MANIFEST, max_pixels=32 * 32 - 1) is None
    assert read_small(PNG, MANIFEST, max_pixels=32 * 32) is not None


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_compressed_text_is_no_obstacle_because_it_stays_compressed(kind: bytes) -> None:
    text = b"k\0\0" + zlib.compress(bytes(2**20))
    row = read_small(with_chunk(kind, text), MANIFEST, max_pixels=10**6)
    np.testing.assert_array_equal(row, read_small(flat((32, 32)), MANIFEST, max_pixels=10**6))


def test_each_is_counted_once(service: RunningService) -> None:
    def counted(outcome: str) -> float:
        return service.metric("aaserve_images_total", format="png", outcome=outcome)

    for picture in (PNG, PNG[:200], flat((300, 300))):
        service.classify(picture)  # so that the series are there
    decoded, refused = counted("decoded"), counted("refused")
    assert service.classify(PNG).status_code == 200
    assert service.classify(flat((300, 300))).status_code == 200  # few bytes, but not few pixels
    assert service.classify(PNG[:200]).json()["code"] == "invalid_image"
    assert (counted("decoded") - decoded, counted("refused") - refused) == (2, 1)
