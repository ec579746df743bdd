"""BMP files.

    header, palette, runs --> an index for each pixel, with one step in Python per run
    all others            --> Pillow

Pillow would also decode runs in Python, pixel by pixel. Its reader skips colour profiles.
"""

import io
from struct import Struct

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile

from aaserve.bundle.errors import InvalidImage
from aaserve.bundle.pictures.containers.stored import Stored, check_size

MAX_RUNS = 500_000  # takes half a second; a screenshot has less than half as many
_FILE_HEADER = 14
_INFO = Struct("<IiiHHIIiiI")  # size, width, height, planes, bits, compression, bytes, resolutions, colours
_OFFSET = Struct("<I")
_CORE_HEADER = 12  # the header of OS/2; never compressed
_HEADERS = (_CORE_HEADER, 40, 52, 56, 64, 108, 124)  # bytes
_BITS_OF_RUNS = {1: 8, 2: 4}
_KNOWN_BITS = (1, 4, 8, 16, 24, 32)
_MASKED = 3
_NIBBLES = [bytes((value >> 4, value & 15)) for value in range(256)]


def read_bmp(image_bytes: bytes, *, max_pixels: int) -> Stored:
    """Open a BMP file.

    Raises:
        ImageTooLarge: more than `max_pixels`.
        InvalidImage: an unsupported kind, or damage that affects pixels.
    """
    header = image_bytes[_FILE_HEADER : _FILE_HEADER + 4]
    if len(header) < 4 or _OFFSET.unpack(header)[0] not in _HEADERS:
        raise InvalidImage(f"the BMP image has no header of {', '.join(map(str, _HEADERS))} bytes")
    if _OFFSET.unpack(header)[0] != _CORE_HEADER:
        if len(image_bytes) < _FILE_HEADER + _INFO.size:
            raise InvalidImage("the BMP image ends in its header")
        _, width, height, _, bits, compression, *_ = _INFO.unpack_from(image_bytes, _FILE_HEADER)
        if width <= 0 or not height:
            raise InvalidImage(f"a BMP image of {width}x{height} pixels is not defined")
        check_size(width, abs(height), max_pixels=max_pixels)
        if compression in _BITS_OF_RUNS:
            return Stored(_read_runs(image_bytes))
        if bits not in _KNOWN_BITS or compression not in (0, _MASKED):
            raise InvalidImage(f"BMP images of {bits} bits with compression {compression} are not supported")
    image = BmpImageFile(io.BytesIO(image_bytes))
    check_size(*image.size, max_pixels=max_pixels)
    return Stored(image)


def _read_runs(image_bytes: bytes) -> Image.Image:
    (start,) = _OFFSET.unpack_from(image_bytes, 10)
    size, width, height, _, bits, compression, _, _, _, colours = _INFO.unpack_from(image_bytes, _FILE_HEADER)
    upwards = height > 0
    if bits != _BITS_OF_RUNS[compression]:
        raise InvalidImage(f"a BMP image with runs of {bits} bits and compression {compression} is not defined")
    indices = _runs(image_bytes, start, width, abs(height), packed=bits == 4)
    image = Image.frombytes("P", (width, abs(height)), memoryview(indices), "raw", "P", 0, -1 if upwards else 1)
    palette = np.zeros((256, 3), np.uint8)
    begin = _FILE_HEADER + size
    known = image_bytes[begin : begin + 4 * min(colours or 1 << bits, 256)]
    entries = np.frombuffer(known[: len(known) // 4 * 4], np.uint8).reshape(-1, 4)
    palette[: len(entries)] = entries[:, 2::-1]  # BGR0 to RGB
    image.putpalette(palette.tobytes())
    return image


def _runs(image_bytes: bytes, place: int, width: int, height: int, *, packed: bool) -> bytearray:
    """The indices in the order of the rows in the file; 0 where no run sets them."""
    indices = bytearray(width * height)
    x = y = 0
    for _ in range(MAX_RUNS):
        if y >= height:
            return indices
        if place + 2 > len(image_bytes):
            if y == height - 1 and x >= width:
                return indices
            raise InvalidImage("the BMP image ends in the middle of its pixels")
        count, value = image_bytes[place], image_bytes[place + 1]
        place += 2
        if count:
            run = (_NIBBLES[value] * 128)[:count] if packed else bytes((value,)) * count
        elif value == 0:
            x, y = 0, y + 1
            continue
        elif value == 1:
            return indices
        elif value == 2:
            if place + 2 > len(image_bytes):
                raise InvalidImage("the BMP image ends in the middle of its pixels")
            x, y, place = x + image_bytes[place], y + image_bytes[place + 1], place + 2
            continue
        else:
            count = value
            length = (count + 1) // 2 if packed else count
            run = image_bytes[place : place + length]
            if len(run) < length:
                raise InvalidImage("the BMP image ends in the middle of its pixels")
            if packed:
                run = b"".join([_NIBBLES[value] for value in run])[:count]
            place += length + length % 2
        run = run[: max(0, width - x)]
        indices[y * width + x : y * width + x + len(run)] = run
        x += count
    raise InvalidImage(f"the BMP image has more than {MAX_RUNS} runs")
