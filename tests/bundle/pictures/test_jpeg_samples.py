"""What the samples of a JPEG mean: its components, processes and depth."""

import json
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aaserve.bundle.errors import InvalidImage
from tests.bundle.pictures.expected_pixels import decoded
from tests.encoders import jpeg_segment, with_segment, without_applications
from tests.helpers import encode, noise


def adobe(transform: int) -> bytes:
    return jpeg_segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform))


def smooth() -> np.ndarray:
    ramp = np.linspace(0, 255, 32).astype(np.uint8)
    return np.stack(np.broadcast_arrays(ramp[None, :], ramp[:, None], 255 - ramp[None, :], ramp[:, None] // 2), axis=-1)


def test_jpeg_components_mean_what_the_file_says() -> None:
    """Stored without conversion, then marked in every way there is."""
    values = smooth()
    options = {"quality": 100, "subsampling": 0}
    bare = without_applications(encode(Image.fromarray(values[..., :3]), "JPEG", keep_rgb=True, **options))
    as_rgb, as_ycc = (
        values[..., :3].astype(int),
        np.asarray(Image.fromarray(values[..., :3], "YCbCr").convert("RGB")).astype(int),
    )
    jfif = jpeg_segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
    for segments, expected in (
        (b"", as_rgb),  # the components are called R, G and B
        (adobe(0), as_rgb),
        (adobe(1), as_ycc),
        (jfif, as_ycc),
    ):
        assert np.abs(decoded(with_segment(bare, segments)) - expected).max() <= 6
    grey = encode(Image.fromarray(values[..., 0]), "JPEG", quality=100)
    assert np.abs(decoded(grey) - values[..., :1]).max() <= 2


def test_jpeg_of_four_components_is_inverted_cmyk() -> None:
    values = smooth()
    inverted = Image.fromarray(values, "CMYK")
    content = without_applications(encode(inverted, "JPEG", quality=100, subsampling=0))
    cmyk = values.astype(int)  # Pillow's encoder inverts
    expected = (255 - cmyk[..., :3]) * (255 - cmyk[..., 3:]) / 255
    assert np.abs(decoded(with_segment(content, adobe(0))) - expected).max() <= 6
    assert np.abs(decoded(content) - expected).max() <= 6  # nothing says otherwise
    stored = 255 - values  # what the encoder writes; the first three are now taken for Y, Cb and Cr
    light = np.asarray(Image.fromarray(stored[..., :3], "YCbCr").convert("RGB")).astype(int)
    expected = (255 - light) * stored[..., 3:].astype(int) / 255
    assert np.abs(decoded(with_segment(content, adobe(2))) - expected).max() <= 6


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"restart_marker_blocks": 2}, {"subsampling": 2}], ids=json.dumps
)
def test_jpeg_processes(options: dict[str, Any]) -> None:
    values = smooth()[..., :3]
    found = decoded(encode(Image.fromarray(values), "JPEG", quality=100, **options))
    assert np.abs(found - values).max() <= 12


def test_jpeg_of_12_bits_is_refused_by_name() -> None:
    content = encode(noise(8, 8), "JPEG")
    place = content.index(b"\xff\xc0")
    with pytest.raises(InvalidImage, match="12 bits a sample"):
        decoded(content[: place + 4] + b"\x0c" + content[place + 5 :])
