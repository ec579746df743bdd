"""What the samples of a BMP and of a GIF mean: palettes, runs, masks, frames."""

import numpy as np
import pytest

from tests.bundle.pictures.expected_pixels import BACKGROUND, ENTRIES, FOUR_BY_TWO, PALETTE, RANDOM, decoded, over
from tests.encoders import bmp, gif, packed


@pytest.mark.parametrize("down", [False, True], ids=["upwards", "downwards"])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_bmp_with_a_palette(bits: int, down: bool) -> None:
    values = FOUR_BY_TWO % 2**bits
    rows = [packed(row, bits) for row in (values if down else values[::-1])]
    image_bytes = bmp(rows, (4, -2 if down else 2), bits, palette=ENTRIES[: min(16, 2**bits)])
    np.testing.assert_array_equal(decoded(image_bytes), PALETTE[values])


RUNS = {
    "RLE8": (8, 1, b"\0\4\x0f\x0e\x0d\0" + b"\0\0" + b"\1\1\1\2\1\3\1\4" + b"\0\1"),
    "RLE4": (4, 2, b"\0\4\xfe\xd0" + b"\0\0" + b"\4\x12"),  # without an end, but whole
    "RLE8, moved": (8, 1, b"\1\x0f\1\x0e\1\x0d\0\0\0\2\2\0\1\3\1\4\0\1"),
}


@pytest.mark.parametrize("down", [False, True], ids=["upwards", "downwards"])
@pytest.mark.parametrize("kind", RUNS)
def test_bmp_of_runs(kind: str, down: bool) -> None:
    bits, compression, coded = RUNS[kind]
    upper = {"RLE8": [1, 2, 3, 4], "RLE4": [1, 2, 1, 2], "RLE8, moved": [0, 0, 3, 4]}[kind]
    values = np.array([upper, [15, 14, 13, 0]])
    image_bytes = bmp(coded, (4, -2 if down else 2), bits, palette=ENTRIES, compression=compression)
    np.testing.assert_array_equal(decoded(image_bytes), PALETTE[values[::-1] if down else values])


@pytest.mark.parametrize("kind", ["555", "555 masks", "565 masks", "24", "32", "32 masks", "32 alpha", "32 profile"])
def test_bmp_without_a_palette(kind: str) -> None:
    colours = RANDOM.integers(0, 256, (2, 4, 4))
    red, green, blue, alpha = (colours[..., index] for index in range(4))
    masks: tuple[int, ...] = ()
    header, bits = 40, int(kind[:2]) if kind[:2] in ("24", "32") else 16
    if bits == 16:
        wide = 6 if "565" in kind else 5
        stored = (red >> 3) << 5 + wide | (green >> 8 - wide) << 5 | blue >> 3
        masks = {"555": (), "555 masks": (0x7C00, 0x3E0, 0x1F), "565 masks": (0xF800, 0x7E0, 0x1F)}[kind]
        red, blue = ((value >> 3) * 255 // 31 for value in (red, blue))
        green = (green >> 8 - wide) * 255 // (2**wide - 1)
    else:
        stored = alpha << 24 | red << 16 | green << 8 | blue
    expected = np.stack([red, green, blue], axis=-1)
    if kind == "32 masks":
        masks = (0xFF0000, 0xFF00, 0xFF)
    if kind == "32 alpha":
        masks, header = (0xFF0000, 0xFF00, 0xFF, 0xFF000000), 56
        expected = over(expected, alpha[..., None])
    if kind == "32 profile":
        header = 124
    rows = [row.astype("<u4").view(np.uint8).reshape(4, 4)[:, : bits // 8].tobytes() for row in stored[::-1]]
    rest = b"\xff" * 84 if header == 124 else b""  # a profile that lies nowhere
    image_bytes = bmp(rows, (4, 2), bits, compression=3 if masks else 0, masks=masks, header=header, rest=rest)
    assert np.abs(decoded(image_bytes) - expected).max() <= 1


@pytest.mark.parametrize("local", [False, True], ids=["global palette", "local palette"])
@pytest.mark.parametrize("transparent", [None, 3], ids=["", "transparent"])
@pytest.mark.parametrize("frame", [(0, 0, 4, 2), (2, 1, 4, 2), (7, 5, 4, 2)], ids=str)
def test_gif(frame: tuple[int, int, int, int], transparent: int | None, local: bool) -> None:
    """What the frame leaves free of its screen is transparent; a frame beyond the screen makes it larger."""
    image_bytes = gif(
        (8, 6), frame, bytes(FOUR_BY_TWO.reshape(-1).tolist()), ENTRIES, transparent=transparent, local=local
    )
    left, top, _, _ = frame
    expected = np.tile(BACKGROUND, (max(6, top + 2), max(8, left + 4), 1)) if left else np.tile(BACKGROUND, (6, 8, 1))
    shown = PALETTE[FOUR_BY_TWO].copy()
    if transparent is not None:
        shown[transparent == FOUR_BY_TWO] = BACKGROUND
    expected[top : top + 2, left : left + 4] = shown
    np.testing.assert_array_equal(decoded(image_bytes), expected)
