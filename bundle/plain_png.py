"""PNG files that are nothing but pixels: 8-bit RGB in the order of the file, as most programs write them.

    signature, IHDR, IDAT …, IEND, each with its checksum --> pixels, by the decoder that Pillow's own reader would use

Pillow reads any PNG chunk by chunk as from a file, which takes four times as long as decoding 32x32 pixels
(benchmarks/NOTES.md). Whatever is not exactly so is left to it: palettes, transparency, interlacing, metadata, damage.
"""

import zlib
from struct import Struct

from PIL import Image

_BEGINNING = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"  # the signature, and the header's length and name
_KIND = bytes((8, 2, 0, 0, 0))  # bits, RGB, and the only methods there are, not interlaced
_END = b"\0\0\0\0IEND\xaeB`\x82"
_HEADER = 33  # bytes, with the signature
_SIZE = Struct(">II").unpack_from
_CHUNK = Struct(">I4s").unpack_from
_CHECKSUM = Struct(">I").unpack_from


def plain_png_size(image_bytes: bytes) -> tuple[int, int] | None:
    """(width, height) of a file that begins and ends as one; None if it does not."""
    if not image_bytes.startswith(_BEGINNING) or image_bytes[24:29] != _KIND or not image_bytes.endswith(_END):
        return None
    if len(image_bytes) < _HEADER + len(_END) or zlib.crc32(image_bytes[12:29]) != _CHECKSUM(image_bytes, 29)[0]:
        return None
    width, height = _SIZE(image_bytes, 16)
    return (width, height) if width and height else None


def read_plain_png(image_bytes: bytes) -> Image.Image | None:
    """The picture, in mode RGB; None if the file is none of these, or damaged."""
    size = plain_png_size(image_bytes)
    if size is None:
        return None
    end, place = len(image_bytes) - len(_END), _HEADER
    compressed: list[bytes] = []
    while place + 12 <= end:
        length, name = _CHUNK(image_bytes, place)
        after = place + 8 + length
        if name != b"IDAT" or after + 4 > end:
            return None
        if zlib.crc32(image_bytes[place + 4 : after]) != _CHECKSUM(image_bytes, after)[0]:
            return None
        compressed.append(image_bytes[place + 8 : after])
        place = after + 4
    if place != end:
        return None
    try:
        return Image.frombytes("RGB", size, b"".join(compressed), "zip", "RGB")
    except ValueError:  # too few rows, or not compressed so
        return None
