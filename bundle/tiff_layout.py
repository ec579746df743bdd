"""How a TIFF file lays out its pixels, from its first directory alone, before a decoder believes it.

libtiff takes memory for a whole tile, however small the picture is, and goes through the bytes behind a tile as often
as tiles point at them: some hundred bytes ask for gigabytes, some millions for minutes.
"""

import struct
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bundle.errors import ImageTooLarge, InvalidImage

MAX_PIECES = 65_536  # strips or tiles
_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH = 256, 257, 322, 323
_OFFSETS, _BYTE_COUNTS = (273, 324), (279, 325)  # of strips, of tiles
_LAYOUT = {_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH, *_OFFSETS, *_BYTE_COUNTS}
_TYPES = {3: "u2", 4: "u4", 16: "u8"}  # SHORT, LONG, LONG8
_ENDIAN: dict[str, Literal["little", "big"]] = {"<": "little", ">": "big"}


def check_tiff_layout(image_bytes: bytes, *, max_pixels: int) -> None:
    """Return if decoding the first picture costs about what its size says.

    Raises:
        ImageTooLarge: the picture or a single tile has more than `max_pixels`.
        InvalidImage: no readable directory, more than MAX_PIECES strips or tiles, or strips or tiles that together
            claim twice the bytes that there are (a single wrong count is common and does no harm).
    """
    try:
        layout = _layout(image_bytes)
    except (struct.error, ValueError, OverflowError) as error:
        raise InvalidImage("the TIFF image has no readable directory") from error
    for sides in ((_WIDTH, _LENGTH), (_TILE_WIDTH, _TILE_LENGTH)):
        width, length = (int(layout[tag][0]) if tag in layout else 0 for tag in sides)
        if width * length > max_pixels:
            raise ImageTooLarge(f"the image has more than {max_pixels} pixels")
    if any(len(layout.get(tag, ())) > MAX_PIECES for tag in _OFFSETS + _BYTE_COUNTS):
        raise InvalidImage(f"the TIFF image has more than {MAX_PIECES} strips or tiles")
    size = len(image_bytes)
    if any(sum(min(int(count), size) for count in layout.get(tag, ())) > 2 * size for tag in _BYTE_COUNTS):
        raise InvalidImage("the strips or tiles of the TIFF image share bytes")


def _layout(image_bytes: bytes) -> dict[int, NDArray[Any]]:
    """The values of the layout's tags in the first directory of a classic or big TIFF (TIFF 6.0, section 2)."""
    order = "<" if image_bytes[:2] == b"II" else ">"
    big = image_bytes[2:4] in (b"+\0", b"\0+")
    head, length = struct.Struct(order + ("8xQ" if big else "4xL")), struct.Struct(order + ("Q" if big else "H"))
    entry = struct.Struct(order + ("HHQ8s" if big else "HHL4s"))
    (start,) = head.unpack_from(image_bytes)
    (entries,) = length.unpack_from(image_bytes, start)
    found: dict[int, NDArray[Any]] = {}
    for index in range(entries):
        tag, kind, count, value = entry.unpack_from(image_bytes, start + length.size + index * entry.size)
        if tag not in _LAYOUT:
            continue
        if kind not in _TYPES or tag in found or not count:
            raise ValueError("a tag that its readers may understand differently")
        dtype = np.dtype(order + _TYPES[kind])
        if count * dtype.itemsize <= len(value):
            found[tag] = np.frombuffer(value, dtype, count)
        else:
            found[tag] = np.frombuffer(image_bytes, dtype, count, int.from_bytes(value, _ENDIAN[order]))
    return found
