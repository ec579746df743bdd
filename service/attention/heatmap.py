"""A picture and a map --> a PNG that shows both: bright and tinted where the map is high, dark where it is low."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE = 448  # pixels of the longer side, at least; a picture of 32x32 pixels is no sight
_TINT = (255, 224, 74)
_VEIL = 0.75  # how much of a picture disappears where nothing looks
_STRENGTH = 0.45  # how much of it becomes tint where most looks


def overlay(pixels: NDArray[np.uint8], attention: NDArray[np.float32], query: tuple[int, int] | None) -> bytes:
    """Lay a map (rows, columns) of shares over a picture (H, W, 3); the brightest cell is the map's highest. A PNG.

    Args:
        query: row and column of the cell that looks, which gets a frame.
    """
    factor = max(1, SIDE // max(pixels.shape[:2]))
    size = pixels.shape[1] * factor, pixels.shape[0] * factor
    picture = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC), np.float32)  # (h, w, 3)
    heat = Image.fromarray(attention / attention.max()).resize(size, Image.Resampling.NEAREST)  # cells, as they are
    share = np.asarray(heat)[..., np.newaxis]  # (h, w, 1)
    tint = _STRENGTH * share
    shown = picture * (1 - _VEIL * (1 - share)) * (1 - tint) + np.asarray(_TINT, np.float32) * tint
    drawn = Image.fromarray(shown.round().astype(np.uint8))
    if query is not None:
        _frame(drawn, query, attention.shape)
    file = io.BytesIO()
    drawn.save(file, "PNG", compress_level=1)  # a quarter of the time that 6 takes, a third more bytes
    return file.getvalue()


def _frame(image: Image.Image, query: tuple[int, int], grid: tuple[int, ...]) -> None:
    (row, column), (rows, columns) = query, grid
    left, right = column * image.width // columns, (column + 1) * image.width // columns - 1
    top, bottom = row * image.height // rows, (row + 1) * image.height // rows - 1
    draw = ImageDraw.Draw(image)
    draw.rectangle((left, top, right, bottom), outline=(0, 0, 0), width=3)
    draw.rectangle((left, top, right, bottom), outline=(255, 255, 255), width=1)
