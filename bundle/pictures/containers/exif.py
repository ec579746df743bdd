"""EXIF data: the orientation. Nothing else in them is read."""

import struct

from PIL import Image

from aaserve.bundle.pictures.containers.directory import read_directory

_ORIENTATION = 274
UNTURNED = 1
_UPRIGHT = {  # orientation --> operation that makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation_of(exif: bytes) -> int:
    """The orientation in EXIF data, 1 to 8 (TIFF 6.0, tag 274); 1 if it is absent or the data are damaged.

    Damaged metadata are no reason to refuse a good picture; viewers ignore them too.
    """
    try:
        found = read_directory(exif.removeprefix(b"Exif\0\0"), {_ORIENTATION}).number(_ORIENTATION, UNTURNED)
    except (ValueError, struct.error, OverflowError):
        return UNTURNED
    return found if 1 <= found <= 8 else UNTURNED


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The picture turned upright according to `orientation`."""
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
