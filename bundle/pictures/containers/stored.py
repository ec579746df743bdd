"""What the readers of the formats have in common."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from aaserve.bundle.errors import ImageTooLarge

MAX_PARTS = 20_000  # chunks, segments or blocks that one file may have: a step in Python for each, 10 ms for all
_STRIP = 2**18  # pixels that are converted at once


class Canvas(NamedTuple):
    """The area that a smaller frame lies in; the background shows around it."""

    width: int
    height: int
    left: int
    top: int


class Stored(NamedTuple):
    """A picture as its file stores it: with 8 bits a sample, not turned upright, perhaps not decoded yet."""

    image: Image.Image
    orientation: int = 1  # as in EXIF
    canvas: Canvas | None = None


def check_size(width: int, height: int, *, max_pixels: int, share: int = 1, of: str = "") -> None:
    """Return if a picture may be decoded.

    Args:
        share: one pixel takes so many times the memory of others; so many times fewer are allowed.
        of: the format that `share` is for.

    Raises:
        ImageTooLarge: it has more pixels.
    """
    allowed = max_pixels // share
    if width * height > allowed:
        why = f" for {of}, 1/{share} of {max_pixels}," if share > 1 else ""
        raise ImageTooLarge(f"the image is {width}x{height} = {width * height} pixels; the limit{why} is {allowed}")


def by_strips(mode: str, convert: Callable[..., Image.Image], *images: Image.Image) -> Image.Image:
    """Make a picture in `mode` by converting strips of `images`, which have one size.

    So a large picture is not in memory once for each step, and the interpreter lock is never held for long.
    """
    width, height = images[0].size
    rows = max(1, _STRIP // width)
    found = Image.new(mode, (width, height))
    for top in range(0, height, rows):
        box = (0, top, width, min(top + rows, height))
        found.paste(convert(*(image.crop(box) for image in images)), (0, top))
    return found


def upper_byte(image: Image.Image, bits: int = 16) -> Image.Image:
    """Grey of 8 bits from grey of up to 16; Pillow's own conversion clips at 255 instead of scaling."""
    return by_strips("L", lambda strip: Image.fromarray((np.asarray(strip) >> bits - 8).astype(np.uint8)), image)
