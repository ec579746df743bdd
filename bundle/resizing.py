"""Resizing as Pillow 13 does it, by the processor's vector instructions: several times as fast.

    (H, W) --rows, strip by strip--> (H, width) --columns--> (height, width)

Pillow rounds between its two passes. One call of the library orders them differently, so each pass is a call of its own
here: of a few values in a thousand the rounding differs, by 1 or 2 of 255 (docs/decisions/0021).
"""

import math

import numpy as np
from cykooz_resizer import CropBox, FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
from numpy.typing import NDArray
from PIL import Image

Box = tuple[float, float, float, float]  # left, top, right, bottom

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_CONVOLUTIONS = {  # and how many pixels each reaches to either side: of the result, where that is smaller
    "bilinear": (ResizeAlg.convolution(FilterType.bilinear), 1.0),
    "bicubic": (ResizeAlg.convolution(FilterType.catmull_rom), 2.0),
    "lanczos": (ResizeAlg.convolution(FilterType.lanczos3), 3.0),
}
_STRIP = 1 << 18  # pixels: a megabyte, which stays in the cache, and large pictures are never copied whole


def resize(image: Image.Image, size: tuple[int, int], box: Box, interpolation: str) -> NDArray[np.uint8]:
    """Return `box` of a picture in mode RGB as (height, width, 3) pixels; like Pillow, it reads beyond the box's edges.

    Args:
        size: (width, height).
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos"; antialiased but for the first.
    """
    left, top, right, bottom = box
    width, height = size
    same = (right - left, bottom - top) == size
    if interpolation not in _CONVOLUTIONS or same:
        return np.asarray(image.resize(size, _RESAMPLING[interpolation], box=box))
    if image.height - height > max(0, 2 * (image.width - width)):  # columns first: that leaves less for the second pass
        turned = image.transpose(Image.Transpose.TRANSPOSE)
        columns = resize(turned, (height, width), (top, left, bottom, right), interpolation)
        return np.ascontiguousarray(columns.swapaxes(0, 1))
    convolution, reach = _CONVOLUTIONS[interpolation]
    reach = reach * max(1, (bottom - top) / height)
    first, last = max(0, math.floor(top - reach)), min(image.height, math.ceil(bottom + reach))
    rows = _resized_rows(image, first, last, width, (left, right), convolution)
    pixels = _convolved(rows, (width, last - first), size, (0, top - first, width, bottom - first), convolution)
    return np.asarray(Image.frombytes("RGB", size, pixels, "raw", "RGBX"))


def _resized_rows(
    image: Image.Image, first: int, last: int, width: int, columns: tuple[float, float], convolution: ResizeAlg
) -> bytes:
    """RGBX pixels (last - first, width) of the rows from `first` to `last`, of which `columns` are resized."""
    strip = max(1, _STRIP // image.width)
    strips = []
    for top in range(first, last, strip):
        bottom = min(top + strip, last)
        part = image if bottom - top == image.height else image.crop((0, top, image.width, bottom))
        pixels = part.tobytes("raw", "RGBX")
        box = (columns[0], 0, columns[1], part.height)
        strips.append(_convolved(pixels, part.size, (width, part.height), box, convolution))
    return b"".join(strips)


def _convolved(
    pixels: bytes, size: tuple[int, int], new_size: tuple[int, int], box: Box, convolution: ResizeAlg
) -> bytes:
    """RGBX pixels of `box`; without the interpreter lock."""
    left, top, right, bottom = box
    found = ImageData(*new_size, PixelType.U8x4)
    options = ResizeOptions(convolution, use_alpha=False, crop_box=CropBox(left, top, right - left, bottom - top))
    Resizer().resize(ImageData(*size, PixelType.U8x4, pixels), found, options)
    return bytes(found.get_buffer())
