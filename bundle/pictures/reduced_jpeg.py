"""JPEG pictures at 1/2, 1/4 or 1/8 of their size: this saves most of the work in libjpeg and in the resize.

600 x 375, at least 64 x 40 --> 75 x 47, in which the picture is 75 x 46.875
"""

import math

from PIL.JpegImagePlugin import JpegImageFile

Box = tuple[float, float, float, float]  # left, top, right, bottom

# EXIF orientations (TIFF 6.0, tag 274) that swap rows and columns; and those that reverse stored rows or columns, so
# that the picture starts with the last stored one.
SWAPPED = frozenset({5, 6, 7, 8})
_ROWS_REVERSED = frozenset({2, 3, 7, 8})
_COLUMNS_REVERSED = frozenset({3, 4, 6, 7})


def reduce(image: JpegImageFile, least: tuple[float, float]) -> tuple[float, float]:
    """Set a picture that is not loaded yet to be decoded at the smallest size that is at least `least` (width, height).

    Returns:
        (width, height) of the picture at that size; they may end within the last decoded column and row.
    """
    width, height = image.size
    if not image.quantization:  # lossless, so without the cosine transform that could be reduced (ITU T.81, annex H)
        return width, height
    drafted = image.draft(None, (math.ceil(least[0]), math.ceil(least[1])))
    return drafted[1][2:] if drafted else (width, height)


def upright_box(size: tuple[int, int], extent: tuple[float, float], orientation: int) -> Box:
    """The box of the picture after it was turned upright.

    Args:
        size: (width, height) of the decoded image.
        extent: (width, height) of the picture in it, from the upper left corner.
        orientation: as in EXIF; 1: not turned.
    """
    right, bottom = size[0] - extent[0], size[1] - extent[1]  # the margin outside the picture
    x = right if orientation in _ROWS_REVERSED else 0
    y = bottom if orientation in _COLUMNS_REVERSED else 0
    if orientation in SWAPPED:
        return y, x, y + extent[1], x + extent[0]
    return x, y, x + extent[0], y + extent[1]
