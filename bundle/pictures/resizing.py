"""Resize like Pillow 13, but several times as fast, with the processor's vector instructions.

    (H, W) --rows--> (H, width) --columns--> (height, width)

Pillow rounds between its two passes. A single call of the library orders the passes differently, so each pass is a
separate call. A few values in a thousand are rounded differently, by 1 or 2 of 255 (docs/decisions/0021). On Linux
without x86-64 there is no wheel of the library, and Pillow does the resize.
"""

import math
import platform
import sys

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if sys.platform == "linux" and platform.machine() != "x86_64":
    _CONVOLUTIONS = {}  # there is no wheel, and pyproject.toml does not require it
else:
    from cykooz_resizer import CropBox, FilterType, ResizeAlg, ResizeOptions, Resizer

    _CONVOLUTIONS = {  # and the radius in pixels: of the result if that is smaller
        "bilinear": (ResizeAlg.convolution(FilterType.bilinear), 1.0),
        "bicubic": (ResizeAlg.convolution(FilterType.catmull_rom), 2.0),
        "lanczos": (ResizeAlg.convolution(FilterType.lanczos3), 3.0),
    }

Box = tuple[float, float, float, float]  # left, top, right, bottom

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def resize(
    image: Image.Image, size: tuple[int, int], box: Box, interpolation: str, *, reproducible: bool = False
) -> NDArray[np.uint8]:
    """Return `box` of a picture in mode RGB as (height, width, 3) pixels; like Pillow, read beyond the box's edges.

    Args:
        size: (width, height).
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos"; all but the first are antialiased.
        reproducible: use Pillow, which rounds the same on every processor.
    """
    left, top, right, bottom = box
    width, height = size
    if size == image.size and box == (0, 0, *size):
        return np.frombuffer(image.tobytes(), np.uint8).reshape(height, width, 3)  # like asarray, in half the time
    same = (right - left, bottom - top) == size
    if interpolation not in _CONVOLUTIONS or same or reproducible:
        return np.asarray(image.resize(size, _RESAMPLING[interpolation], box=box))
    if image.height - height > max(0, 2 * (image.width - width)):  # columns first: less work for the second pass
        turned = image.transpose(Image.Transpose.TRANSPOSE)
        columns = resize(turned, (height, width), (top, left, bottom, right), interpolation)
        return np.ascontiguousarray(columns.swapaxes(0, 1))
    convolution, reach = _CONVOLUTIONS[interpolation]
    reach = reach * max(1, (bottom - top) / height)
    first, last = (
        max(0, math.floor(top - reach)),
        min(image.height, math.ceil(bottom + reach)),
    )  # rows that matter
    rows = _convolved(image, (width, last - first), (left, first, right, last), convolution)
    return np.asarray(_convolved(rows, size, (0, top - first, width, bottom - first), convolution))


def _convolved(image: Image.Image, size: tuple[int, int], box: Box, convolution: "ResizeAlg") -> Image.Image:
    """One pass; reads Pillow's memory directly, without the interpreter lock."""
    left, top, right, bottom = box
    found = Image.new("RGB", size)
    crop = CropBox(left, top, right - left, bottom - top)
    Resizer().resize_pil(image, found, ResizeOptions(convolution, crop_box=crop))
    return found
