"""PNG files: what is damaged is refused where pixels need it, and there alone."""

import struct
import zlib

import numpy as np
import pytest
from PIL import ImageOps

from aaserve.bundle.errors import ImageError, ImageTooLarge, InvalidImage
from aaserve.bundle.pictures.decoding import decode
from tests.encoders import SIGNATURE, opened, png, png_chunk
from tests.helpers import BAD_IMAGES, encode, noise, photograph

SIZES = [(1, 1), (3, 200), (200, 3), (32, 32), (61, 47)]
PIXELS = np.arange(192).reshape(8, 8, 3)
SOUND = png(PIXELS, 8, 2)


def decoded(image_bytes: bytes, max_pixels: int = 10**6) -> np.ndarray:
    return np.asarray(decode(image_bytes, max_pixels=max_pixels, background=(0, 0, 0), exif_orientation=True))


def of_rows(rows: bytes, *, size: tuple[int, int] = (8, 8)) -> bytes:
    """A PNG of filtered rows in RGB, whether or not they are as many as it says."""
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    data = png_chunk(b"IDAT", zlib.compress(rows))
    return SIGNATURE + png_chunk(b"IHDR", header) + data + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pixels_are_pillows(size: tuple[int, int], level: int) -> None:
    for image in (noise(*size), photograph().resize(size)):  # noise is not filtered, a photograph is
        content = encode(image, "PNG", compress_level=level)
        np.testing.assert_array_equal(decoded(content), np.asarray(opened(content)))


def test_data_in_several_pieces_is_one_picture() -> None:
    rows = b"".join(bytes([filter_number]) + bytes(range(24)) for filter_number in (0, 1, 2, 3, 4, 0, 1, 2))
    np.testing.assert_array_equal(decoded(of_rows(rows)), np.asarray(opened(of_rows(rows))))
    for pieces in (1, 2, 7):
        np.testing.assert_array_equal(decoded(png(PIXELS, 8, 2, pieces=pieces)), PIXELS)


PALETTE = png_chunk(b"PLTE", bytes(range(30)))
INDICES = np.zeros((2, 2, 1), int)
DAMAGED = {
    "no pixels": (of_rows(b"", size=(0, 0)), "0x0 pixels"),
    "no data": (SOUND.replace(b"IDAT", b"ioAT"), "no IDAT"),
    "no header": (SIGNATURE + SOUND[33:], "no complete IHDR"),
    "a short header": (SIGNATURE + png_chunk(b"IHDR", bytes(9)) + SOUND[33:], "no complete IHDR"),
    "no rows": (SIGNATURE + SOUND[8:33] + png_chunk(b"IDAT", zlib.compress(bytes(200))[:6]), "too early"),
    "data that is not compressed": (
        SOUND[:33] + png_chunk(b"IDAT", b"x" * 50) + SOUND[-12:],
        "damaged or end too early",
    ),
    "a filter that there is not": (of_rows(b"\x09" + bytes(199)), "damaged or end too early"),
    "a palette that is missing": (png(INDICES, 8, 3), "palette"),
    "a palette that is cut off": (png(INDICES, 8, 3, before=png_chunk(b"PLTE", b"12345")), "palette"),
    "two palettes": (png(INDICES, 8, 3, before=PALETTE * 2), "PLTE"),
    "a damaged palette": (png(INDICES, 8, 3, before=png_chunk(b"PLTE", bytes(30), checksum=1)), "checksum of its PLTE"),
    "a damaged tRNS": (png(PIXELS, 8, 2, before=png_chunk(b"tRNS", bytes(6), checksum=1)), "checksum of its tRNS"),
    "a short tRNS": (png(PIXELS, 8, 2, before=png_chunk(b"tRNS", bytes(4))), "tRNS"),
    "a critical chunk that is not known": (png(PIXELS, 8, 2, before=png_chunk(b"CgBI", b"")), "CgBI"),
    "a length that is wrong": (png(PIXELS, 8, 2, before=b"\0\0\0\x03tIME" + bytes(9)), "do not follow each other"),
    "chunks without end": (png(PIXELS, 8, 2, before=png_chunk(b"tEXt", b"") * 20_001), "more than 20000 chunks"),
}


@pytest.mark.parametrize(("image_bytes", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damage_that_pixels_are_hurt_by_is_named(image_bytes: bytes, message: str) -> None:
    with pytest.raises(InvalidImage, match=message):
        decoded(image_bytes)


def test_a_flipped_bit_changes_no_pixel_unnoticed() -> None:
    content = encode(noise(4, 4), "PNG")
    end = len(content) - 12  # IEND has nothing to say
    for place in range(8 * 8, end * 8):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(ImageError):
            decoded(bytes(flipped))


def test_truncated_pixels_are_refused_wherever_they_end() -> None:
    for length in range(9, len(SOUND) - 12):
        with pytest.raises(InvalidImage):
            decoded(SOUND[:length])
    for length in range(len(SOUND) - 12, len(SOUND)):  # all pixels are there
        np.testing.assert_array_equal(decoded(SOUND[:length]), PIXELS)


def test_missing_rows_are_black_as_with_pillow() -> None:
    content = of_rows(bytes([0, *[9] * 24]) * 7)
    np.testing.assert_array_equal(decoded(content), np.asarray(opened(content)))
    assert not decoded(content)[7].any()


@pytest.mark.skipif(not BAD_IMAGES.is_dir(), reason="the data set bad_images is not here")
def test_odd_files_of_others_are_read_as_pillow_reads_them() -> None:
    read = 0
    for path in sorted(BAD_IMAGES.rglob("*.png")):
        try:
            image = ImageOps.exif_transpose(opened(path.read_bytes()))
            found = decoded(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue
        if image.mode == "RGB" and not image.has_transparency_data:
            np.testing.assert_array_equal(found, np.asarray(image), path.name)
            read += 1
    assert read >= 5


def test_too_many_pixels_are_not_decoded() -> None:
    with pytest.raises(ImageTooLarge, match="8x8 = 64 pixels; the limit is 63"):
        decoded(SOUND, 63)
    with pytest.raises(ImageTooLarge):
        decoded(of_rows(b"", size=(60_000, 60_000)))
    with pytest.raises(ImageTooLarge):
        decoded(of_rows(b"", size=(60_000, 60_000))[:33])
    assert decoded(SOUND, 64).shape == (8, 8, 3)
