"""Metadata that no pixel needs decide over no picture, damaged or long as they may be."""

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aaserve.bundle.errors import InvalidImage
from aaserve.bundle.pictures.containers.jpeg import MAX_TABLE_BYTES
from aaserve.bundle.pictures.containers.stored import MAX_PARTS
from aaserve.bundle.pictures.decoding import decode
from tests.encoders import (
    bmp,
    gif,
    jpeg_segment,
    png,
    png_chunk,
    riff,
    tiff,
    tiff_file,
    webp_chunks,
    with_segment,
    without_applications,
)
from tests.helpers import encode, noise

PIXELS = np.random.default_rng(2).integers(0, 256, (6, 7, 3))
MEGABYTES = zlib.compress(bytes(3 * 2**20))  # more than Pillow takes of a text
TURNED = tiff_file(b"", {274: (3, [6])}, order=">")


def decoded(image_bytes: bytes, **options: Any) -> np.ndarray:
    found = decode(image_bytes, **{"max_pixels": 10**5, "background": (1, 2, 3), "exif_orientation": True, **options})
    return np.asarray(found)


PNG_METADATA = {
    "a wrong checksum": png_chunk(b"tEXt", b"Comment\0x", checksum=7),
    **{f"a short {name}": png_chunk(name.encode(), b"\1") for name in ("gAMA", "cHRM", "pHYs", "tIME", "acTL", "fcTL")},
    **{f"an empty {name}": png_chunk(name.encode(), b"") for name in ("sRGB", "iCCP", "sBIT", "bKGD", "hIST", "eXIf")},
    "a long profile": png_chunk(b"iCCP", b"ICC\0\0" + MEGABYTES),
    "a profile that is not compressed": png_chunk(b"iCCP", b"ICC\0\1" + bytes(50)),
    "a long text": png_chunk(b"zTXt", b"k\0\0" + MEGABYTES),
    "a text that is not compressed": png_chunk(b"zTXt", b"k\0\7" + MEGABYTES),
    "a long international text": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + MEGABYTES),
    "EXIF data that are not": png_chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"),
    "a broken animation": png_chunk(b"acTL", struct.pack(">II", 2, 0)) + png_chunk(b"fcTL", bytes(26)),
}


@pytest.mark.parametrize("metadata", PNG_METADATA.values(), ids=PNG_METADATA)
def test_png(metadata: bytes) -> None:
    for where in ("before", "after"):
        np.testing.assert_array_equal(decoded(png(PIXELS, 8, 2, **{where: metadata})), PIXELS)


JPEG = encode(noise(16, 24), "JPEG", quality=95)
JPEG_METADATA = {
    **{
        f"a short JFIF of {length}": jpeg_segment(0xE0, b"JFIF\0\1\2\1\0\x48\0\x48\0\0"[:length])
        for length in (5, 6, 9, 13)
    },
    **{f"a short Adobe of {length}": jpeg_segment(0xEE, b"Adobe\0d\0\0\0\0\1"[:length]) for length in (5, 6, 7, 11)},
    "a short profile": jpeg_segment(0xE2, b"ICC_PROFILE\0"),
    "a profile with a piece missing": jpeg_segment(0xE2, b"ICC_PROFILE\0\2\3abc"),
    "a short FlashPix": jpeg_segment(0xE2, b"FPXR\0"),
    "a short MPF": jpeg_segment(0xE2, b"MPF\0"),
    **{
        f"Photoshop's block cut off at {length}": jpeg_segment(
            0xED, (b"Photoshop 3.0\0" + b"8BIM\3\xed\0\0\0\0\0\x10" + bytes(4))[:length]
        )
        for length in (14, 18, 19, 20, 21, 24, 26, 28)
    },
    "EXIF data that are not": jpeg_segment(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff"),
    "an empty segment": jpeg_segment(0xE1, b""),
    "a segment shorter than its own length": b"\xff\xe5\0\0",
    "a long comment": jpeg_segment(0xFE, b"x" * 65_000) * 30,
}


@pytest.mark.parametrize("metadata", JPEG_METADATA.values(), ids=JPEG_METADATA)
def test_jpeg(metadata: bytes) -> None:
    np.testing.assert_array_equal(decoded(with_segment(JPEG, metadata)), decoded(JPEG))


def test_jpeg_colours_do_not_depend_on_a_short_segment() -> None:
    """libjpeg does not believe it either, and goes by the names of the components."""
    bare = without_applications(encode(Image.fromarray(PIXELS.astype(np.uint8)), "JPEG", keep_rgb=True))
    for metadata in (jpeg_segment(0xE0, b"JFIF\0\1\1"), jpeg_segment(0xEE, b"Adobe\0d\0\0\0\0")):
        np.testing.assert_array_equal(decoded(with_segment(bare, metadata)), decoded(bare))


def test_a_jpeg_has_a_bounded_number_of_segments() -> None:
    within = with_segment(JPEG, b"\xff\xe0\0\2" * (MAX_PARTS - 20))
    np.testing.assert_array_equal(decoded(within), decoded(JPEG))
    with pytest.raises(InvalidImage, match=f"more than {MAX_PARTS} segments"):
        decoded(with_segment(JPEG, b"\xff\xe0\0\2" * MAX_PARTS))


def test_tables_of_a_jpeg_are_bounded() -> None:
    table = JPEG[JPEG.index(b"\xff\xdb") :][:69]  # its length is 67: one table of 64 values
    np.testing.assert_array_equal(decoded(with_segment(JPEG, table * 900)), decoded(JPEG))
    with pytest.raises(InvalidImage, match=f"more than {MAX_TABLE_BYTES} bytes of tables"):
        decoded(with_segment(JPEG, table * 1000))


COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
FRAME = bytes((0, 1, 2, 1, 2, 0))
GIF_METADATA = {
    "comments": b"!\xfe" + b"\x05hello" * 3 + b"\0",
    "an empty comment": b"!\xfe\0",
    "an empty application": b"!\xff\0",
    "a short loop": b"!\xff\x0bNETSCAPE2.0\x01\x01\0",
    "an application that is not known": b"!\xff\x0bXMP DataXMP" + b"\x02ab" * 500 + b"\0",
    "an extension that is not known": b"!\x77\x01x\0",
    "a short control": b"!\xf9\x01\x01\0",
    "an empty control": b"!\xf9\0",
    "text": b"!\x01\x0c" + bytes(12) + b"\x01x\0",
    "stray bytes": b"\0\0\0",
}


@pytest.mark.parametrize("metadata", GIF_METADATA.values(), ids=GIF_METADATA)
def test_gif(metadata: bytes) -> None:
    found = decoded(gif((3, 2), (0, 0, 3, 2), FRAME, COLOURS, before=metadata))
    np.testing.assert_array_equal(found.reshape(-1, 3), np.array(COLOURS)[list(FRAME)])


def test_a_gif_has_a_bounded_number_of_blocks() -> None:
    for endless in (b"!\xfe" + b"\x01x" * MAX_PARTS + b"\0", b"!\xfe\0" * MAX_PARTS, bytes(MAX_PARTS)):
        with pytest.raises(InvalidImage, match=f"more than {MAX_PARTS} blocks"):
            decoded(gif((3, 2), (0, 0, 3, 2), FRAME, COLOURS, before=endless))


@pytest.mark.parametrize("lossless", [False, True])
def test_webp(lossless: bool) -> None:
    plain = encode(Image.fromarray(PIXELS.astype(np.uint8)), "WEBP", lossless=lossless, quality=90)
    expected = decoded(plain)
    pixels = next(iter(webp_chunks(plain).items()))
    size = b"".join((side - 1).to_bytes(3, "little") for side in (7, 6))
    head = (b"VP8X", b"\x2c\0\0\0" + size)
    for profile in (b"", b"x", bytes(70_001)):
        for more in (b"", b"Exif\0\0MM\0*\xff\xff\xff\xff"):
            whole = riff(head, (b"ICCP", profile), (b"WHAT", b"?"), pixels, (b"EXIF", more), (b"XMP ", profile))
            np.testing.assert_array_equal(decoded(whole), expected)
    whole = riff(head, pixels, (b"EXIF", bytes(100)))
    for cut in (1, 50, 100, 107):  # behind the pixels
        np.testing.assert_array_equal(decoded(whole[:-cut]), expected)
    np.testing.assert_array_equal(decoded(b"RIFF\xff\xff\xff\x7f" + plain[8:]), expected)
    with pytest.raises(InvalidImage, match="middle of its pixels"):
        decoded(plain[:-6])


OUTSIDE = struct.pack("<I", 2**31)
TIFF_METADATA = {
    f"{name} outside of the file": {tag: (2, OUTSIDE)}
    for name, tag in (("description", 270), ("maker", 271), ("software", 305), ("XMP", 700), ("profile", 34675))
} | {
    "EXIF directory outside of the file": {34665: (4, [2**31])},
    "GPS directory in the pixels": {34853: (4, [8])},
    "no resolution": {282: (3, [0]), 283: (3, [0]), 296: (3, [2])},
    "resolution that is text": {282: (2, b"abc\0"), 283: (2, b"abc\0"), 296: (3, [3])},
    "a resolution unit that is text": {296: (2, b"x\0\0\0")},
    "coefficients of YCbCr outside of the file": {529: (5, OUTSIDE), 530: (3, OUTSIDE), 532: (5, OUTSIDE)},
    "a palette outside of the file": {320: (3, OUTSIDE)},
    "tables of JPEG outside of the file": {347: (7, OUTSIDE), 292: (2, b"x\0\0\0")},
    "a type that there is not": {33723: (99, b"1234")},
    "another page outside of the file": {},
}


@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize("compressed", [False, True], ids=["", "compressed"])
@pytest.mark.parametrize("metadata", TIFF_METADATA.values(), ids=TIFF_METADATA)
def test_tiff(metadata: dict[int, Any], compressed: bool, order: str) -> None:
    image_bytes = tiff(PIXELS, 8, 2, compressed=compressed, order=order, tags=metadata)
    if not metadata:
        place = image_bytes.index(struct.pack(order + "HHI", 317, 3, 1)) + 12  # the last entry
        assert image_bytes[place : place + 4] == bytes(4)
        image_bytes = image_bytes[:place] + b"\x7f\xff\xff\xff" + image_bytes[place + 4 :]
    np.testing.assert_array_equal(decoded(image_bytes), PIXELS)


def test_bmp_with_a_profile_that_lies_nowhere() -> None:
    rows = [row.astype(np.uint8)[:, ::-1].tobytes() for row in PIXELS[::-1]]
    for header in (108, 124):
        image_bytes = bmp(rows, (7, 6), 24, header=header, rest=b"\xff" * (header - 40))
        np.testing.assert_array_equal(decoded(image_bytes), PIXELS)


def test_orientation_is_read_wherever_the_format_keeps_it() -> None:
    upright = np.rot90(PIXELS, -1)
    plain = webp_chunks(encode(Image.fromarray(PIXELS.astype(np.uint8)), "WEBP", lossless=True))
    pixels = next(iter(plain.items()))
    head = (b"VP8X", b"\x08\0\0\0" + b"".join((side - 1).to_bytes(3, "little") for side in (7, 6)))
    sound = {
        "PNG": png(PIXELS, 8, 2, before=png_chunk(b"eXIf", TURNED)),
        "PNG, behind": png(PIXELS, 8, 2, after=png_chunk(b"eXIf", TURNED)),
        "WebP": riff(head, pixels, (b"EXIF", TURNED)),
        "WebP, marked": riff(head, pixels, (b"EXIF", b"Exif\0\0" + TURNED)),
    }
    for name, image_bytes in sound.items():
        np.testing.assert_array_equal(decoded(image_bytes), upright, name)
        np.testing.assert_array_equal(decoded(image_bytes, exif_orientation=False), PIXELS, name)
    jpeg = with_segment(JPEG, jpeg_segment(0xE1, b"Exif\0\0" + TURNED))
    np.testing.assert_array_equal(decoded(jpeg), np.rot90(decoded(JPEG), -1))
