"""Bitmaps whose samples have no defined colours."""

import pytest

from aaserve.bundle.errors import InvalidImage
from tests.bundle.pictures.expected_pixels import decoded, samples
from tests.encoders import SHORT, bmp, png, png_chunk, tiff

NO_COLOUR = {
    "8-bit grey of signed integer": tiff(samples(8, 1), 8, 1, tags={339: (SHORT, [2])}),
    "16-bit grey of signed integer": tiff(samples(16, 1), 16, 1, tags={339: (SHORT, [2])}),
    "32-bit grey of floating-point": tiff(samples(32, 1), 32, 1, tags={339: (SHORT, [3])}),
    "16-bit grey of floating-point": tiff(samples(16, 1), 16, 1, tags={339: (SHORT, [3])}, order=">"),
    "32-bit grey": tiff(samples(32, 1), 32, 1),
    "32-bit RGB": tiff(samples(32, 3), 32, 2),
    "CIE L": tiff(samples(8, 3), 8, 8),
    "photometric 32803": tiff(samples(16, 1), 16, 32803),  # the colour filter of a raw picture
    "uncompressed YCbCr": tiff(samples(8, 3), 8, 6),
    "16 bits, colour type 3": png(samples(16, 1), 16, 3),
    "4 bits, colour type 2": png(samples(8, 3), 8, 2).replace(b"\x08\x02\0\0\0", b"\x04\x02\0\0\0"),
    "BMP images of 8 bits with compression 4": bmp(b"", (4, 4), 8, compression=4),
    "BMP images of 2 bits": bmp([b"\0"], (4, 1), 2),
    "a BMP image of -40000x4 pixels": bmp([b"\0"], (-40000, 4), 24),
    "a BMP image of -40000x-40000 pixels": bmp([b"\0"], (-40000, -40000), 24),
    "a BMP image of 0x4 pixels": bmp([b"\0"], (0, 4), 8, compression=1),
}


@pytest.mark.parametrize(("kind", "image_bytes"), NO_COLOUR.items(), ids=NO_COLOUR)
def test_a_bitmap_of_undefined_colours_is_refused_by_name(kind: str, image_bytes: bytes) -> None:
    if kind.startswith("4 bits"):
        header = image_bytes[16:29]
        image_bytes = image_bytes[:8] + png_chunk(b"IHDR", header) + image_bytes[33:]
    with pytest.raises(InvalidImage, match=kind):
        decoded(image_bytes)
