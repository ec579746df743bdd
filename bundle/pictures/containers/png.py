"""PNG files: the chunks that pixels need, and the EXIF data. All other chunks are skipped.

    IHDR, [PLTE], [tRNS], IDAT ..., each with a correct checksum --> pixels, by Pillow's decoder

Pillow's reader is not used. It refuses good pictures with damaged or long metadata, ignores the checksums of IDAT,
ignores tRNS if samples do not have 8 bits, and takes four times as long as decoding 32x32 pixels (benchmarks/NOTES.md).
Chunks of animations count as metadata too: IDAT holds the first frame.
"""

import zlib
from functools import partial
from struct import Struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aaserve.bundle.errors import InvalidImage
from aaserve.bundle.pictures.containers.exif import orientation_of
from aaserve.bundle.pictures.containers.stored import MAX_PARTS, Stored, by_strips, check_size

_HEADER_BEGINS = b"\0\0\0\rIHDR"
_HEADER_ENDS = 33  # bytes, including the signature and the checksum
_CHUNK = Struct(">I4s").unpack_from
_CHECKSUM = Struct(">I").unpack_from
_HEADER = Struct(">IIBBBBB").unpack_from
_KINDS = {  # (bits, colour type) --> Pillow's mode, and the decoder's raw mode
    (1, 0): ("1", "1"),
    (2, 0): ("L", "L;2"),
    (4, 0): ("L", "L;4"),
    (8, 0): ("L", "L"),
    (16, 0): ("L", "L;16B"),
    (8, 2): ("RGB", "RGB"),
    (16, 2): ("RGB", "RGB;16B"),
    (1, 3): ("P", "P;1"),
    (2, 3): ("P", "P;2"),
    (4, 3): ("P", "P;4"),
    (8, 3): ("P", "P"),
    (8, 4): ("LA", "LA"),
    (16, 4): ("RGBA", "LA;16B"),
    (8, 6): ("RGBA", "RGBA"),
    (16, 6): ("RGBA", "RGBA;16B"),
}
_GREY, _RGB, _PALETTE = 0, 2, 3
_LOWER_BYTES = {_GREY: "L;16", _RGB: "RGB;16L"}  # for samples of 16 bits; the upper bytes are decoded separately
_NEEDED = frozenset({b"PLTE", b"tRNS"})


def read_png(image_bytes: bytes, *, max_pixels: int) -> Stored:
    """Decode a PNG file.

    Raises:
        ImageTooLarge: more than `max_pixels`; known from the header.
        InvalidImage: damage that affects pixels, or missing chunks.
    """
    if image_bytes[8:16] != _HEADER_BEGINS or len(image_bytes) < _HEADER_ENDS:
        raise InvalidImage("the PNG image has no complete IHDR chunk")
    _check(image_bytes, b"IHDR", _HEADER_ENDS - 17, _HEADER_ENDS - 4)
    width, height, bits, colour, compression, filtering, interlaced = _HEADER(image_bytes, _HEADER_ENDS - 17)
    check_size(width, height, max_pixels=max_pixels)
    if not width or not height:
        raise InvalidImage(f"the PNG image is {width}x{height} pixels")
    if (bits, colour) not in _KINDS or compression or filtering or interlaced > 1:
        raise InvalidImage(f"the PNG image has a kind that PNG does not define: {bits} bits, colour type {colour}")
    chunks, data, exif = _read_chunks(image_bytes)
    if not data:
        raise InvalidImage("the PNG image has no IDAT chunk")
    packed = data[0] if len(data) == 1 else b"".join(data)
    mode, unpacking = _KINDS[bits, colour]

    def decoded(unpacking: str) -> Image.Image:
        try:
            return Image.frombytes(mode, (width, height), packed, "zip", unpacking, interlaced)
        except ValueError as error:
            raise InvalidImage("the pixels of the PNG image are damaged or end too early") from error

    image = decoded(unpacking)
    transparent = chunks.get(b"tRNS")
    if colour == _PALETTE:
        _put_palette(image, chunks.get(b"PLTE", b""), transparent)
    elif transparent is not None and colour in (_GREY, _RGB):
        values = _colour(transparent, bits, 1 if colour == _GREY else 3)
        if bits < 16:
            image.info["transparency"] = values[0] if colour == _GREY else values
        else:
            compared = partial(_with_hole, np.array(values))
            image = by_strips("LA" if colour == _GREY else "RGBA", compared, image, decoded(_LOWER_BYTES[colour]))
    return Stored(image, orientation_of(exif))


def _read_chunks(image_bytes: bytes) -> tuple[dict[bytes, bytes], list[memoryview], bytes]:
    """Return the chunks needed for decoding, the compressed pixels, and the EXIF data."""
    found: dict[bytes, bytes] = {}
    data: list[memoryview] = []
    exif = b""
    content, place, consecutive = memoryview(image_bytes), _HEADER_ENDS, True
    for _ in range(MAX_PARTS):
        if place + 8 > len(content):
            return found, data, exif
        length, name = _CHUNK(content, place)
        start, end = place + 8, place + 8 + length
        place = end + 4
        if name == b"IEND" or (data and end > len(content)):
            if name == b"IDAT" and consecutive:
                raise InvalidImage("the PNG image ends in the middle of its pixels")
            return found, data, exif
        consecutive = consecutive and (name == b"IDAT" or not data)
        if name == b"IDAT" and consecutive:
            _check(image_bytes, name, start, end)
            data.append(content[start:end])
        elif name == b"eXIf" and end + 4 <= len(content):
            exif = exif or bytes(content[start:end])
        elif data:  # chunks after the pixels do not affect them
            continue
        elif name in _NEEDED:
            _check(image_bytes, name, start, end)
            if name in found:
                raise InvalidImage(f"the PNG image has two {name.decode()} chunks")
            found[name] = bytes(content[start:end])
        elif not name.isalpha():
            raise InvalidImage("the PNG image is damaged: its chunks do not follow each other")
        elif not name[0] & 0x20:  # critical: the pixels cannot be decoded without it
            raise InvalidImage(f"the PNG image needs its chunk {name.decode()}, which is unknown")
    if data and not consecutive:
        return found, data, exif
    raise InvalidImage(f"the PNG image has more than {MAX_PARTS} chunks before the end of its pixels")


def _check(image_bytes: bytes, name: bytes, start: int, end: int) -> None:
    if end + 4 > len(image_bytes):
        raise InvalidImage(f"the PNG image ends in its {name.decode()} chunk")
    if zlib.crc32(memoryview(image_bytes)[start - 4 : end]) != _CHECKSUM(image_bytes, end)[0]:
        raise InvalidImage(f"the PNG image is damaged: wrong checksum of its {name.decode()} chunk")


def _put_palette(image: Image.Image, palette: bytes, transparent: bytes | None) -> None:
    if not palette or len(palette) % 3 or len(palette) > 768:
        raise InvalidImage(f"the palette of the PNG image has {len(palette)} bytes")
    colours = np.zeros((256, 4), np.uint8)  # missing colours are black, as in libpng
    colours[:, 3] = 255
    colours[: len(palette) // 3, :3] = np.frombuffer(palette, np.uint8).reshape(-1, 3)
    if transparent is not None:
        alphas = np.frombuffer(transparent, np.uint8)[:256]
        colours[: len(alphas), 3] = alphas
        image.putpalette(colours.tobytes(), "RGBA")
    else:
        image.putpalette(colours[:, :3].tobytes())


def _colour(transparent: bytes, bits: int, samples: int) -> tuple[int, ...]:
    """The colour in a tRNS chunk, in samples of 8 bits, or of 16 if the picture has them."""
    if len(transparent) < 2 * samples:
        raise InvalidImage(f"the tRNS chunk of the PNG image has {len(transparent)} bytes, less than a colour")
    values = [value & (2**bits - 1) for value in Struct(f">{samples}H").unpack_from(transparent)]
    return tuple(values if bits == 16 else [value * 255 // (2**bits - 1) for value in values])


def _with_hole(values: NDArray[np.int_], upper: Image.Image, lower: Image.Image) -> Image.Image:
    """The upper bytes of samples; transparent where upper and lower bytes equal `values`."""
    size = (upper.height, upper.width, len(values))
    same = (np.asarray(upper).reshape(size) == values >> 8) & (np.asarray(lower).reshape(size) == values & 255)
    upper.putalpha(Image.fromarray(np.where(same.all(axis=2), 0, 255).astype(np.uint8)))
    return upper
