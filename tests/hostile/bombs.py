"""Small files that need much memory or time to decode."""

import io
import struct
import zlib
from math import ceil

from PIL import Image

from tests.hostile.bad_pictures import encoded

DATA = 8  # offset of what tiff() puts before its directory


def tiff(data: bytes, *tags: tuple[int, int, int, int], behind: bytes = b"") -> bytes:
    """A little-endian TIFF: data, one directory of (tag, type, count, value) entries, and what stands behind it."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    head = b"II*\0" + struct.pack("<I", DATA + len(data))
    return head + data + struct.pack("<H", len(tags)) + entries + bytes(4) + behind


def tiff_of(width: int, height: int, *tags: tuple[int, int, int, int], data: bytes, compression: int = 8) -> bytes:
    """An 8-bit grey TIFF."""
    grey = ((258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1), (277, 3, 1, 1))
    return tiff(data, (256, 4, 1, width), (257, 4, 1, height), *grey, *tags)


def tiff_of_one_tile(side: int, tile: int) -> bytes:
    """A small picture in one tile that is much larger."""
    data = zlib.compress(bytes(10_000))
    tiles = ((322, 4, 1, tile), (323, 4, 1, tile), (324, 4, 1, DATA), (325, 4, 1, len(data)))
    return tiff_of(side, side, *tiles, data=data)


def tiff_of_strips(rows: int, *, data: bytes = bytes(100), first: int = DATA) -> bytes:
    """One pixel wide, every row a strip, all of them the same bytes."""
    tags = [(256, 4, 1, 1), (257, 4, 1, rows), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    behind = DATA + len(data) + 2 + 12 * (len(tags) + 3) + 4
    tags += [(273, 4, rows, behind), (278, 4, 1, 1), (279, 4, rows, behind + 4 * rows)]
    arrays = struct.pack("<I", first) * rows + struct.pack("<I", len(data)) * rows
    return tiff(data, *tags, behind=arrays)


def progressive_jpeg(side: int, scans: int) -> bytes:
    """A grey progressive JPEG whose scans say "nothing new" of all blocks: some ten bytes for each time through all."""

    def segment(marker: int, content: bytes) -> bytes:
        return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content

    blocks = ceil(side / 8) ** 2
    one_code = bytes((1, *[0] * 15))
    tables = segment(0xDB, bytes((0, *[1] * 64)))  # quantisation
    tables += segment(0xC4, b"\x00" + one_code + b"\x00") + segment(0xC4, b"\x10" + one_code + b"\xe0")  # DC, AC: EOB14
    frame = segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\x01\x11\x00")
    runs = ceil(blocks / 32767)
    bits = ("0" + "1" * 14) * runs
    bits += "1" * (-len(bits) % 8)
    nothing_new = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    first = segment(0xDA, b"\x01\x01\x00\x00\x00\x00") + bytes(ceil(blocks / 8))
    return (
        b"\xff\xd8"
        + tables
        + frame
        + first
        + (segment(0xDA, b"\x01\x01\x00\x01\x3f\x00") + nothing_new) * scans
        + b"\xff\xd9"
    )


def webp_canvas(side: int) -> bytes:
    """A small animation on a canvas of side x side."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    content = bytearray(encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    content[24:30] = (side - 1).to_bytes(3, "little") * 2
    return bytes(content)


def gif_frame(side: int) -> bytes:
    """A small GIF whose only frame says that it is larger."""
    content = bytearray(encoded(Image.new("L", (10, 10)), "GIF"))
    position = content.rindex(b",\0\0\0\0")
    content[position + 5 : position + 9] = struct.pack("<HH", side, side)
    return bytes(content)


def png_text(chunks: int) -> bytes:
    """A PNG with `chunks` compressed texts of a megabyte each."""
    text = b"zTXtk\0\0" + zlib.compress(bytes(2**20))
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    sound = encoded(Image.new("RGB", (8, 8)), "PNG")
    return sound[:33] + chunk * chunks + sound[33:]  # behind signature and IHDR


def bmp_run_length(width: int) -> bytes:
    """A run-length coded BMP of one row that is told to move 255 rows up, again and again."""
    coded, palette = b"\0\2\0\xff" * 1000, bytes(1024)
    start = 14 + 40 + len(palette)
    head = b"BM" + struct.pack("<IHHI", start + len(coded), 0, 0, start)
    return head + struct.pack("<IiiHHIIiiII", 40, width, 1, 1, 8, 1, len(coded), 0, 0, 256, 0) + palette + coded


def bmp_runs(runs: int) -> bytes:
    """A run-length coded BMP of one row, with a pixel in each run."""
    coded, palette = b"\1\x12" * runs, bytes(64)
    start = 14 + 40 + len(palette)
    head = b"BM" + struct.pack("<IHHI", start + len(coded), 0, 0, start)
    return head + struct.pack("<IiiHHIIiiII", 40, runs, 1, 1, 4, 2, len(coded), 0, 0, 16, 0) + palette + coded


def png_chunks(chunks: int) -> bytes:
    """A PNG with empty chunks in front of its pixels."""
    sound = encoded(Image.new("RGB", (8, 8)), "PNG")
    return sound[:33] + (bytes(4) + b"tEXt" + struct.pack(">I", zlib.crc32(b"tEXt"))) * chunks + sound[33:]


def exif_tags(tags: int, size: int) -> bytes:
    """A PNG whose EXIF data have `tags` entries that all point at the same `size` bytes."""
    exif = tiff(bytes(size), *((1000 + index, 1, size, DATA) for index in range(tags)))
    return encoded(Image.new("RGB", (8, 8)), "PNG", exif=b"Exif\0\0" + exif)


def jpeg_that_says_mpo() -> bytes:
    """A sound JPEG with the index of a multi-picture file, as phones write it."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, "MPO", save_all=True, append_images=[Image.new("RGB", (16, 16))])
    return file.getvalue()


BOMBS = {
    "TIFF tile of 40000 x 40000": tiff_of_one_tile(10, 40_000),
    "TIFF of a million strips": tiff_of_strips(1_000_000),
    "TIFF strips that share bytes": tiff_of_strips(60_000, data=bytes(100_000)),
    "JPEG of 100,000 scans": progressive_jpeg(7000, 100_000),
    "WebP canvas of 13000 x 13000": webp_canvas(13_000),
    "WebP canvas of 65000 x 65000": webp_canvas(65_000),
    "GIF frame of 65535 x 65535": gif_frame(65_535),
    "GIF frame of 10000 x 10000": gif_frame(10_000),
    "JPEG of two million segments": b"\xff\xd8" + b"\xff\xe0\0\2" * 2_000_000,
    "JPEG of a million fill bytes": b"\xff\xd8" + b"\xff" * 1_000_000 + b"\0" + b"\xff\xda\0\2" * 200,
    "GIF of two million blocks": b"GIF89a\1\0\1\0\0\0\0!\xfe" + b"\1x" * 2_000_000,
    "PNG of 800,000 chunks": png_chunks(800_000),
    "BMP of two million runs": bmp_runs(2_000_000),
}
HARMLESS = {  # pictures that are classified; a test notices if that takes memory
    "PNG with a gigabyte of text": png_text(1000),
    "EXIF tags that share bytes": exif_tags(1000, 500_000),
    "BMP that moves up": bmp_run_length(1_000_000),
}
