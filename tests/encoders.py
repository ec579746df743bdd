"""Encoders of pictures, small enough to be seen to be right, for the kinds that Pillow does not write."""

import io
import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
SHORT, LONG, LONG8 = 3, 4, 16


def png_chunk(name: bytes, content: bytes, *, checksum: int | None = None) -> bytes:
    found = zlib.crc32(name + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", found)


def png(
    samples: np.ndarray,
    bits: int,
    colour: int,
    *,
    interlaced: bool = False,
    before: bytes = b"",
    after: bytes = b"",
    pieces: int = 1,
) -> bytes:
    """A PNG of samples (H, W, samples of a pixel).

    Args:
        before, after: whole chunks in front of the pixels and behind them.
        pieces: IDAT chunks.
    """
    height, width, _ = samples.shape
    passes = [samples[y::dy, x::dx] for x, y, dx, dy in _ADAM7] if interlaced else [samples]
    rows = b"".join(b"\0" + packed(row.reshape(-1), bits) for part in passes if part.size for row in part)
    data = zlib.compress(rows)
    step = -(-len(data) // pieces)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    chunks = [png_chunk(b"IDAT", data[start : start + step]) for start in range(0, len(data), step)]
    return b"".join((SIGNATURE, png_chunk(b"IHDR", header), before, *chunks, after, png_chunk(b"IEND", b"")))


def packed(samples: np.ndarray, bits: int, order: str = ">") -> bytes:
    """Samples one after the other, the first in the highest bits, filled up to a whole byte."""
    if bits >= 8:
        return samples.astype(f"{order}u{bits // 8}").tobytes()
    each = (samples[:, None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(each.astype(np.uint8)).tobytes()


def tiff(
    samples: np.ndarray,
    bits: int,
    photometric: int,
    *,
    order: str = "<",
    big: bool = False,
    compressed: bool = False,
    predictor: int = 1,
    planar: bool = False,
    tile: int | None = None,
    rows: int = 5,
    tags: Mapping[int, tuple[int, Sequence[int]]] | None = None,
) -> bytes:
    """A TIFF of samples (H, W, samples of a pixel), in strips of some `rows` or in tiles of side `tile`.

    Args:
        tags: others, or in the place of those that are made here: number --> (type, values); None leaves one out.
    """
    height, width, count = samples.shape
    planes = [samples[..., index : index + 1] for index in range(count)] if planar else [samples]
    pieces = []
    for plane in planes:
        for top in range(0, height, tile or rows):
            for left in range(0, width, tile or width):
                piece = plane[top : top + (tile or rows), left : left + (tile or width)]
                if tile:
                    piece = np.pad(piece, ((0, tile - piece.shape[0]), (0, tile - piece.shape[1]), (0, 0)))
                if predictor == 2:
                    before = np.pad(piece[:, :-1], ((0, 0), (1, 0), (0, 0)))
                    piece = (piece.astype(np.int64) - before) % 2**bits
                content = b"".join(packed(row.reshape(-1), bits, order) for row in piece)
                pieces.append(zlib.compress(content) if compressed else content)
    start = 16 if big else 8
    offsets = [start + sum(map(len, pieces[:index])) for index in range(len(pieces))]
    found = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [bits] * count),
        259: (SHORT, [8 if compressed else 1]),
        262: (SHORT, [photometric]),
        277: (SHORT, [count]),
        284: (SHORT, [2 if planar else 1]),
        317: (SHORT, [predictor]),
    }
    lengths = [len(piece) for piece in pieces]
    if tile:
        found |= {322: (LONG, [tile]), 323: (LONG, [tile]), 324: (LONG, offsets), 325: (LONG, lengths)}
    else:
        found |= {273: (LONG, offsets), 278: (LONG, [rows]), 279: (LONG, lengths)}
    found |= tags or {}
    return tiff_file(b"".join(pieces), {tag: value for tag, value in found.items() if value}, order=order, big=big)


def tiff_file(
    data: bytes, tags: Mapping[int, tuple[int, Sequence[int] | bytes]], *, order: str = "<", big: bool = False
) -> bytes:
    """A TIFF with `data` behind its head. Values that are bytes are the last field of the entry, value or offset."""
    data += bytes(len(data) % 2)
    size, offset, count, entry = (8, "Q", "Q", "HHQ") if big else (4, "I", "H", "HHI")
    start = (16 if big else 8) + len(data)
    place = start + struct.calcsize(order + count) + len(tags) * (struct.calcsize(order + entry) + size) + size
    lines, behind = b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        if isinstance(values, bytes):
            lines += struct.pack(order + entry, tag, kind, 1000) + values.ljust(size, b"\0")
            continue
        content = struct.pack(f"{order}{len(values)}{ {1: 'B', SHORT: 'H', LONG: 'I', LONG8: 'Q'}[kind] }", *values)
        if len(content) > size:
            behind += content + bytes(len(content) % 2)
            content = struct.pack(order + offset, place + len(behind) - len(content) - len(content) % 2)
        lines += struct.pack(order + entry, tag, kind, len(values)) + content.ljust(size, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(
        order + ("HHH" if big else "H"), *(43, 8, 0) if big else (42,)
    )
    directory = struct.pack(order + count, len(tags)) + lines + bytes(size)
    return head + struct.pack(order + offset, start) + data + directory + behind


def bmp(
    rows: Sequence[bytes] | bytes,
    size: tuple[int, int],
    bits: int,
    *,
    palette: Sequence[tuple[int, int, int]] = (),
    compression: int = 0,
    masks: Sequence[int] = (),
    header: int = 40,
    rest: bytes = b"",
) -> bytes:
    """A BMP of rows as they stand in the file, each filled up to four bytes here; or of coded bytes.

    Args:
        size: (width, height); the height is negative if the first row is the upper one.
        header: its length, with `masks` and `rest` in it where it is longer than 40.
    """
    data = rows if isinstance(rows, bytes) else b"".join(row + bytes(-len(row) % 4) for row in rows)
    colours = b"".join(bytes((blue, green, red, 0)) for red, green, blue in palette)
    beyond = struct.pack(f"<{len(masks)}I", *masks) + rest
    beyond = beyond.ljust(header - 40, b"\0")
    start = 14 + 40 + len(beyond) + len(colours)
    info = struct.pack("<IiiHHIIiiII", header, *size, 1, bits, compression, len(data), 0, 0, len(palette), 0)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + beyond + colours + data


def gif(
    screen: tuple[int, int],
    frame: tuple[int, int, int, int],
    indices: bytes,
    palette: Sequence[tuple[int, int, int]],
    *,
    transparent: int | None = None,
    before: bytes = b"",
    local: bool = False,
) -> bytes:
    """A GIF with one frame (left, top, width, height) of up to 128 colours.

    Args:
        before: extensions in front of the frame.
        local: the palette belongs to the frame.
    """
    colours = b"".join(bytes(colour) for colour in palette).ljust(384, b"\0")
    control = b"" if transparent is None else b"!\xf9\x04" + bytes((1, 0, 0, transparent, 0))
    codes = [code for index in indices for code in (128, index)] + [129]  # clear before each, so codes keep 8 bits
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0 if local else 0x86, 0, 0) + (b"" if local else colours)
    coded = b"".join(
        bytes((len(part),)) + part for part in (bytes(codes[at : at + 255]) for at in range(0, len(codes), 255))
    )
    described = b"," + struct.pack("<HHHHB", *frame, 0x86 if local else 0) + (colours if local else b"")
    return head + before + control + described + b"\x07" + coded + b"\0;"


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP file of these chunks."""
    body = b"WEBP" + b"".join(webp_chunk(*chunk) for chunk in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def webp_chunks(image_bytes: bytes) -> dict[bytes, bytes]:
    """The chunks of a WebP file, by name."""
    found, place = {}, 12
    while place < len(image_bytes):
        name, length = struct.unpack_from("<4sI", image_bytes, place)
        found[name] = image_bytes[place + 8 : place + 8 + length]
        place += 8 + length + length % 2
    return found


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def with_segment(jpeg: bytes, segment: bytes) -> bytes:
    """The JPEG with a segment behind its first marker."""
    return jpeg[:2] + segment + jpeg[2:]


def without_applications(jpeg: bytes) -> bytes:
    """The JPEG without the segments of applications in front of its tables."""
    place = 2
    while 0xE0 <= jpeg[place + 1] < 0xF0:
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    return jpeg[:2] + jpeg[place:]


def opened(image_bytes: bytes) -> Image.Image:
    """The picture as Pillow's own readers have it."""
    return Image.open(io.BytesIO(image_bytes))
