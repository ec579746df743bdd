"""What the samples of a WebP mean: lossless, lossy, with an alpha channel, animated."""

import numpy as np
import pytest
from PIL import Image

from tests.bundle.pictures.expected_pixels import BACKGROUND, decoded, over
from tests.encoders import riff, webp_chunk, webp_chunks
from tests.helpers import encode


def alpha_picture() -> Image.Image:
    pixels = np.random.default_rng(3).integers(0, 256, (8, 6, 4), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_webp() -> None:
    picture = alpha_picture()
    pixels = np.asarray(picture).astype(int)
    lossless = encode(picture, "WEBP", lossless=True, exact=True)
    assert np.abs(decoded(lossless) - over(pixels[..., :3], pixels[..., 3:])).max() <= 1
    opaque = encode(picture.convert("RGB"), "WEBP", lossless=True)
    np.testing.assert_array_equal(decoded(opaque), pixels[..., :3])


def test_lossy_webp_with_an_alpha_channel() -> None:
    even = Image.new("RGBA", (16, 16), (200, 100, 50, 255))
    even.paste((200, 100, 50, 0), (0, 0, 8, 16))
    content = encode(even, "WEBP", quality=95)
    assert set(webp_chunks(content)) == {b"VP8X", b"ALPH", b"VP8 "}
    found = decoded(content)
    assert np.abs(found[4, 3] - BACKGROUND).max() <= 1
    assert np.abs(found[4, 13] - [200, 100, 50]).max() <= 8


@pytest.mark.parametrize("lossless", [False, True])
def test_the_first_frame_of_an_animated_webp_lies_on_its_canvas(lossless: bool) -> None:
    frame = Image.new("RGBA", (16, 16), (200, 100, 50, 255))
    frame.paste((0, 0, 0, 0), (0, 0, 8, 16))
    inner = webp_chunks(encode(frame, "WEBP", quality=95, lossless=lossless))
    inner.pop(b"VP8X", None)
    anmf = b"".join(value.to_bytes(3, "little") for value in (4 // 2, 2 // 2, 15, 15)) + bytes(4)
    anmf += b"".join(webp_chunk(*chunk) for chunk in inner.items())
    canvas = bytes((0x12, 0, 0, 0, 31, 0, 0, 23, 0, 0))
    found = decoded(riff((b"VP8X", canvas), (b"ANIM", bytes(6)), (b"ANMF", anmf), (b"ANMF", anmf)))
    assert found.shape == (24, 32, 3)
    expected = np.tile(BACKGROUND, (24, 32, 1))
    expected[2:18, 12:20] = [200, 100, 50]
    assert np.abs(found - expected).max() <= (2 if lossless else 20)
