"""What the samples of a PNG mean: every depth, colour type and transparency."""

import itertools

import numpy as np
import pytest

from tests.bundle.pictures.expected_pixels import HEIGHT, PALETTE, RANDOM, WIDTH, decoded, eight, over, rgb, samples
from tests.encoders import png, png_chunk


@pytest.mark.parametrize("interlaced", [False, True], ids=["", "interlaced"])
@pytest.mark.parametrize("transparent", [False, True], ids=["", "tRNS"])
@pytest.mark.parametrize(
    ("bits", "colour"),
    [
        *itertools.product((1, 2, 4, 8, 16), (0,)),
        *itertools.product((8, 16), (2, 4, 6)),
        *itertools.product((1, 2, 4, 8), (3,)),
    ],
)
def test_png(bits: int, colour: int, transparent: bool, interlaced: bool) -> None:
    values = samples(bits, {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour])
    found = eight(values, bits)
    before, alpha = b"", np.full((HEIGHT, WIDTH, 1), 255)
    if colour == 3:
        entries = PALETTE[: 2**bits]
        before = png_chunk(b"PLTE", entries.astype(np.uint8).tobytes())
        found = entries[values[..., 0]]
    elif colour in (0, 2):
        values[3:5, 2:7] = values[4, 5]  # several pixels of one colour
        found = eight(values, bits)
        found = found if colour == 2 else rgb(found)
    else:
        alpha = found[..., -1:]
        found = found[..., :3] if colour == 6 else rgb(found[..., 0])
    if transparent and colour == 3:
        alphas = RANDOM.integers(0, 256, max(1, len(entries) - 1))
        before += png_chunk(b"tRNS", alphas.astype(np.uint8).tobytes())
        alpha = np.append(alphas, 255)[values]
    elif transparent and colour in (0, 2):
        before += png_chunk(b"tRNS", values[4, 5].astype(">u2").tobytes())
        alpha = np.where((values == values[4, 5]).all(axis=2), 0, 255)[..., None]
        assert 10 <= (alpha == 0).sum() < HEIGHT * WIDTH
    elif transparent:
        before += png_chunk(b"tRNS", bytes(6))  # has no meaning beside an alpha channel
    expected = over(found, alpha)
    image_bytes = png(values, bits, colour, interlaced=interlaced, before=before, pieces=3)
    assert np.abs(decoded(image_bytes) - expected).max() <= 1


def test_a_colour_that_is_transparent_in_16_bits_is_compared_in_16_bits() -> None:
    grey = np.array([[[0x1234], [0x1235]]])
    image_bytes = png(grey, 16, 0, before=png_chunk(b"tRNS", b"\x12\x34"))
    assert decoded(image_bytes).tolist() == [[[10, 20, 30], [0x12] * 3]]
    colours = np.array([[[0x1234, 0x5678, 0x9ABC], [0x1234, 0x5678, 0x9ABD]]])
    image_bytes = png(colours, 16, 2, before=png_chunk(b"tRNS", colours[0, 0].astype(">u2").tobytes()))
    assert decoded(image_bytes).tolist() == [[[10, 20, 30], [0x12, 0x56, 0x9A]]]


def test_indices_beyond_a_palette_are_black() -> None:
    image_bytes = png(np.array([[[0], [9]]]), 8, 3, before=png_chunk(b"PLTE", b"\xff\x80\x40"))
    assert decoded(image_bytes).tolist() == [[[255, 128, 64], [0, 0, 0]]]
