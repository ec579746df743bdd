"""PNG files that are nothing but pixels are read as Pillow reads them, and all others are left to it."""

import io
import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from bundle.decoding import decode
from bundle.errors import ImageError, ImageTooLarge
from bundle.plain_png import read_plain_png
from tests.helpers import SHARED, encode, noise, photograph

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SIZES = [(1, 1), (3, 200), (200, 3), (32, 32), (61, 47)]


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(*, size: tuple[int, int] = (8, 8), rows: bytes | None = None, pieces: int = 1, extra: bytes = b"") -> bytes:
    width, height = size
    packed = zlib.compress(rows if rows is not None else bytes(height * (1 + 3 * width)))
    step = -(-len(packed) // pieces)
    data = [chunk(b"IDAT", packed[start : start + step]) for start in range(0, len(packed), step)]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join([SIGNATURE, chunk(b"IHDR", header), extra, *data, chunk(b"IEND", b"")])


def by_pillow(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_are_pillows(size: tuple[int, int], level: int) -> None:
    for image in (noise(*size), photograph().resize(size)):  # noise is not filtered, a photograph is
        content = encode(image, "PNG", compress_level=level)
        plain = read_plain_png(content)
        assert plain is not None
        assert plain.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(plain), by_pillow(content))


def test_data_in_several_pieces_is_one_picture() -> None:
    rows = b"".join(bytes([filter_number]) + bytes(range(24)) for filter_number in (0, 1, 2, 3, 4, 0, 1, 2))
    for pieces in (1, 2, 7):
        plain = read_plain_png(png(rows=rows, pieces=pieces))
        assert plain is not None
        np.testing.assert_array_equal(np.asarray(plain), by_pillow(png(rows=rows)))


def information(**text: str) -> PngImagePlugin.PngInfo:
    found = PngImagePlugin.PngInfo()
    for name, value in text.items():
        found.add_text(name, value)
    return found


EXIF = Image.Exif()
EXIF[0x0112] = 6
OTHERS = {
    "grey": encode(noise(8, 8).convert("L"), "PNG"),
    "palette": encode(noise(8, 8).quantize(16), "PNG"),
    "alpha": encode(noise(8, 8).convert("RGBA"), "PNG"),
    "a colour that is transparent": encode(noise(8, 8), "PNG", transparency=(1, 2, 3)),
    "EXIF": encode(noise(8, 8), "PNG", exif=EXIF),
    "text": encode(noise(8, 8), "PNG", pnginfo=information(Comment="x")),
    "animated": encode(noise(8, 8), "PNG", save_all=True, append_images=[noise(8, 8, seed=1)]),
    "more behind its end": png() + b"x",
    "no pixels": png(size=(0, 0)),
    "no data": png(pieces=1).replace(b"IDAT", b"IDOT"),
    "not compressed so": png().replace(zlib.compress(bytes(200)), b"x" * len(zlib.compress(bytes(200)))),
    "a filter that there is not": png(rows=b"\x09" + bytes(199)),
    "its beginning": png()[:33],
    "its beginning and end": png()[:20] + png()[-12:],
    "JPEG": encode(noise(8, 8), "JPEG"),
    "nothing": b"",
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_anything_else_is_left_to_pillow(content: bytes) -> None:
    assert read_plain_png(content) is None


def test_a_flipped_bit_is_noticed_wherever_it_is() -> None:
    content = encode(noise(4, 4), "PNG")
    for place in range(len(content) * 8):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        assert read_plain_png(bytes(flipped)) is None


def test_missing_rows_are_black_as_with_pillow() -> None:
    content = png(rows=bytes([0, *[9] * 24]) * 7)
    plain = read_plain_png(content)
    assert plain is not None
    np.testing.assert_array_equal(np.asarray(plain), by_pillow(content))
    assert not np.asarray(plain)[7].any()


def damaged() -> Iterator[bytes]:
    """Sound checksums around data that is not."""
    chance = random.Random(0)
    content = noise(8, 8).tobytes()
    packed = bytearray(zlib.compress(b"".join(b"\x01" + content[start : start + 24] for start in range(0, 192, 24))))
    for _ in range(3000):
        data = bytearray(packed)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        header = struct.pack(">IIBBBBB", 8, chance.choice((7, 8, 9)), 8, 2, 0, 0, 0)
        yield SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", bytes(data)) + chunk(b"IEND", b"")


def test_whatever_is_read_pillow_reads_alike() -> None:
    read = 0
    for content in damaged():
        if (plain := read_plain_png(content)) is not None:
            np.testing.assert_array_equal(np.asarray(plain), by_pillow(content))
            read += 1
    assert read  # some damage is where nobody looks, such as in the last checksum


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the pictures in ../shared, which are not part of the repository")
def test_of_the_odd_files_none_is_read_that_pillow_does_not_read_alike() -> None:
    for path in sorted((SHARED / "data" / "bad_images").rglob("*")):
        if path.is_file() and (plain := read_plain_png(path.read_bytes())) is not None:
            np.testing.assert_array_equal(np.asarray(plain), by_pillow(path.read_bytes()))


def test_too_many_pixels_are_not_decoded() -> None:
    def decoded(content: bytes) -> Image.Image:
        return decode(content, max_pixels=63, background=(0, 0, 0), exif_orientation=True)

    with pytest.raises(ImageTooLarge):
        decoded(png())
    with pytest.raises(ImageTooLarge):
        decoded(png(size=(60_000, 60_000), rows=b""))
    assert decoded(png(size=(7, 9))).size == (7, 9)
    with pytest.raises(ImageError):
        decoded(png(size=(7, 9), rows=b"\0"))
