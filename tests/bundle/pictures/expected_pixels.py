"""Random samples, and the pixels that a file of them has to decode to."""

from typing import Any

import numpy as np

from aaserve.bundle.pictures.decoding import decode

BACKGROUND = np.array([10, 20, 30])
HEIGHT, WIDTH = 13, 11  # no multiple of anything
RANDOM = np.random.default_rng(7)
PALETTE = RANDOM.integers(0, 256, (256, 3))
ENTRIES = [tuple(int(value) for value in entry) for entry in PALETTE[:16]]
FOUR_BY_TWO = np.array([[1, 2, 3, 4], [15, 14, 13, 0]])  # upper row first


def decoded(image_bytes: bytes, **options: Any) -> np.ndarray:
    found = decode(
        image_bytes, **{"max_pixels": 10**5, "background": (10, 20, 30), "exif_orientation": True, **options}
    )
    assert found.mode == "RGB"
    return np.asarray(found).astype(int)


def samples(bits: int, count: int) -> np.ndarray:
    return RANDOM.integers(0, 2**bits, (HEIGHT, WIDTH, count))


def eight(values: np.ndarray, bits: int) -> np.ndarray:
    """Samples as 0..255: the upper byte of more than 8 bits, the whole range of fewer."""
    return values >> bits - 8 if bits >= 8 else values * 255 // (2**bits - 1)


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey.reshape(HEIGHT, WIDTH, 1), 3, axis=2)


def over(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours over the background, alpha 0..255."""
    return (colours * alpha + BACKGROUND * (255 - alpha)) / 255
