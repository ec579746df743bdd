"""Shared by the readers of all formats."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from aaserve.bundle.errors import ImageTooLarge

MAX_PARTS = 20_000  # chunks, segments or blocks in one file: each takes a step in Python, all together 10 ms
_STRIP = 2**18  # pixels that are converted at once


class Canvas(NamedTuple):
    """The area that contains a smaller frame, with the background around it."""

    width: int
    height: int
    left: int
    top: int


class Stored(NamedTuple):
    """A picture as stored in its file: 8 bits per sample, not turned upright, possibly not decoded yet."""

    image: Image.Image
    orientation: int = 1  # as in EXIF
    canvas: Canvas | None = None


def check_size(width: int, height: int, *, max_pixels: int, share: int = 1, of: str = "") -> None:
    """Check that a picture may be decoded.

    Args:
        share: factor of memory for each pixel; the limit is divided by it.
        of: the format with this `share`.

    Raises:
        ImageTooLarge: it has more pixels.
    """
    allowed = max_pixels // share
    if width * height > allowed:
        why = f" for {of}, 1/{share} of {max_pixels}," if share > 1 else ""
        raise ImageTooLarge(f"the image is {width}x{height} = {width * height} pixels; the limit{why} is {allowed}")


def by_strips(mode: str, convert: Callable[..., Image.Image], *images: Image.Image) -> Image.Image:
    """Make a picture in `mode` by converting strips of `images`, which have the same size.

    So memory does not hold a copy of a large picture for each step, and the interpreter lock is never held for long.
    """
    width, height = images[0].size
    rows = max(1, _STRIP // width)
    found = Image.new(mode, (width, height))
    for top in range(0, height, rows):
        box = (0, top, width, min(top + rows, height))
        found.paste(convert(*(image.crop(box) for image in images)), (0, top))
    return found


def upper_byte(image: Image.Image, bits: int = 16) -> Image.Image:
    """8-bit grey from grey of up to 16 bits; Pillow's own conversion clips at 255 instead of scaling."""
    return by_strips("L", lambda strip: Image.fromarray((np.asarray(strip) >> bits - 8).astype(np.uint8)), image)
