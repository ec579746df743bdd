"""JPEG files: the segments that pixels need (ITU T.81, annex B), and the EXIF data.

    SOI, [JFIF], [Adobe], tables, frame, first scan and everything after it --> Pillow

Segments of other applications before the first scan are left out: Pillow would read them, and would refuse a good
picture because of a truncated one. JFIF's and Adobe's segments stay, because they define the colours of the components,
but only if they are long enough for libjpeg to accept them.
"""

import io
import re

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from aaserve.bundle.errors import InvalidImage
from aaserve.bundle.pictures.containers.exif import orientation_of
from aaserve.bundle.pictures.containers.stored import MAX_PARTS, Stored, check_size

MAX_TABLE_BYTES = 65_536  # before the first scan; Pillow reads tables in Python; four of each kind take 2,000 bytes
MAX_SCANS = 100  # libtiff's own limit too (LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER); progressive files have about 10
# A marker followed by a length: no fill byte, no stuffed byte, no restart. FF+ would be quadratic in fill bytes.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN, _COMMENT = 0xD8, 0xD9, 0xDA, 0xFE
_APPLICATIONS = range(0xE0, 0xF0)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # except DHT, JPG, DAC
_SEQUENTIAL_FRAMES = frozenset((0xC0, 0xC1, 0xC9))  # if the first scan has all components, libjpeg stops after it
_JFIF, _EXIF, _ADOBE = (0xE0, b"JFIF\0", 14), (0xE1, b"Exif\0\0", 6), (0xEE, b"Adobe", 12)  # and least number of bytes
_START_OF_SCAN_PAIR = np.frombuffer(bytes((0xFF, _START_OF_SCAN)), np.uint16)[0]


def read_jpeg(image_bytes: bytes, *, max_pixels: int) -> Stored:
    """Open a JPEG file. It is decoded later, possibly at a reduced size.

    Raises:
        ImageTooLarge: more than `max_pixels`.
        InvalidImage: too many segments, tables or scans, or samples without 8 bits.
    """
    pieces, exif, has_one_scan = _pixel_segments(image_bytes)
    if not has_one_scan:
        check_scans(image_bytes)
    pixels = b"".join(pieces)
    image = JpegImageFile(io.BytesIO(pixels))
    check_size(*image.size, max_pixels=max_pixels)
    image.decodermaxblock = len(pixels)  # libjpeg gets all bytes at once, outside the interpreter lock
    return Stored(image, orientation_of(exif))


def check_scans(image_bytes: bytes) -> None:
    """Return if the file has at most MAX_SCANS scans. A scan costs work for every pixel but needs few bytes.

    Raises:
        InvalidImage: more scans, or more than MAX_PARTS segments.
    """
    if _start_of_scan_pairs(image_bytes) <= MAX_SCANS:  # nearly all files
        return
    scans, position = 0, 2
    for _ in range(MAX_PARTS):
        found = _MARKER.search(image_bytes, position)
        if not found or found[1][0] in (_START_OF_IMAGE, _END_OF_IMAGE):
            return
        scans += found[1][0] == _START_OF_SCAN
        if scans > MAX_SCANS:
            raise InvalidImage(f"the JPEG image has more than {MAX_SCANS} scans")
        position = _end(image_bytes, found)
    raise InvalidImage(f"the JPEG image has more than {MAX_PARTS} segments")


def _pixel_segments(image_bytes: bytes) -> tuple[list[bytes | memoryview], bytes, bool]:
    """Return the parts of the file that pixels need, the EXIF data, and whether libjpeg reads only one scan."""
    pieces: list[bytes | memoryview] = [image_bytes[:2]]
    exif, position, content, table_bytes, components = b"", 2, memoryview(image_bytes), 0, 0
    for _ in range(MAX_PARTS):
        found = _MARKER.search(image_bytes, position)
        if not found:
            raise InvalidImage("the JPEG image ends before its pixels")
        marker, start = found[1][0], found.end() - 2
        if marker == _START_OF_SCAN:
            pieces.append(content[start:])
            return pieces, exif, bool(components) and content[start + 4 : start + 5] == bytes((components,))
        if marker in (_START_OF_IMAGE, _END_OF_IMAGE):
            raise InvalidImage("the JPEG image has no pixels before its end")
        position = _end(image_bytes, found)
        payload = content[start + 4 : position]
        if marker in _FRAMES and payload and payload[0] != 8:
            raise InvalidImage(f"the JPEG image has {payload[0]} bits a sample; expected 8")
        if marker in _SEQUENTIAL_FRAMES:
            components = int.from_bytes(payload[5:6], "big")
        if marker in _APPLICATIONS or marker == _COMMENT:
            if not exif and _is(_EXIF, marker, payload):
                exif = bytes(payload)
            if not (_is(_JFIF, marker, payload) or _is(_ADOBE, marker, payload)):
                continue
        else:
            table_bytes += position - start
            if table_bytes > MAX_TABLE_BYTES:
                raise InvalidImage(f"the JPEG image has more than {MAX_TABLE_BYTES} bytes of tables")
        pieces.append(content[start:position])
    raise InvalidImage(f"the JPEG image has more than {MAX_PARTS} segments before its pixels")


def _end(image_bytes: bytes, marker: "re.Match[bytes]") -> int:
    start = marker.end()
    return start + max(2, int.from_bytes(image_bytes[start : start + 2], "big"))


def _is(known: tuple[int, bytes, int], marker: int, payload: memoryview) -> bool:
    number, name, length = known
    return marker == number and payload[: len(name)] == name and len(payload) >= length


def _start_of_scan_pairs(image_bytes: bytes) -> int:
    """How often FF DA occurs. bytes.count takes eight times as long and holds the interpreter lock."""
    whole = np.frombuffer(image_bytes, np.uint8)
    even, odd = whole[: len(whole) // 2 * 2], whole[1 : 1 + (len(whole) - 1) // 2 * 2]
    return sum(int(np.count_nonzero(pairs.view(np.uint16) == _START_OF_SCAN_PAIR)) for pairs in (even, odd))
