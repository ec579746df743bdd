"""Bytes to an upright RGB picture."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from aaserve.bundle.errors import ImageTooLarge, InvalidImage, UnsupportedImage
from aaserve.bundle.pictures.decoding import decode, sniff_format
from tests.helpers import ROOT, encode, noise

RAMP = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)  # 16-bit grey whose high bytes are 0..255
TRANSPOSES = {  # EXIF orientation --> how a camera held that way stores an upright picture
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def decoded(image_bytes: bytes, *, max_pixels: int = 10**6, exif_orientation: bool = True) -> np.ndarray:
    image = decode(image_bytes, max_pixels=max_pixels, background=(10, 20, 30), exif_orientation=exif_orientation)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_keep_their_pixels(image_format: str) -> None:
    image = noise(20, 30)
    np.testing.assert_array_equal(decoded(encode(image, image_format)), np.asarray(image))


def test_lossless_webp_keeps_its_pixels() -> None:
    image = noise(20, 30)
    np.testing.assert_array_equal(decoded(encode(image, "WEBP", lossless=True)), np.asarray(image))


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(image_format: str) -> None:
    found = decoded(encode(Image.fromarray(RAMP), image_format))
    np.testing.assert_array_equal(found, np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2))


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    animation = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decoded(animation)[0, 0], [255, 0, 0])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_pixels_show_the_background(mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (200, 200, 200, 0))
    image.putpixel((0, 0), (200, 200, 200, 255))
    found = decoded(encode(image.convert("P") if mode == "PA" else image.convert(mode), "PNG"))
    np.testing.assert_array_equal(found[0, 0], [200, 200, 200])
    np.testing.assert_array_equal(found[3, 3], [10, 20, 30])


def test_a_transparent_palette_entry_shows_the_background() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    np.testing.assert_array_equal(decoded(encode(image, "GIF", transparency=1))[0, 0], [10, 20, 30])


def test_one_bit_pictures_are_black_and_white() -> None:
    image = Image.new("1", (4, 4), 1)
    np.testing.assert_array_equal(decoded(encode(image, "PNG"))[0, 0], [255, 255, 255])


@pytest.mark.parametrize("orientation", TRANSPOSES)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_turns_pictures_upright(image_format: str, orientation: int) -> None:
    upright = Image.new("RGB", (32, 16), "black")
    upright.paste("red", (0, 0, 8, 8))
    stored = upright.transpose(TRANSPOSES[orientation]) if TRANSPOSES[orientation] is not None else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(image_format, {})
    found = decoded(encode(stored, image_format, exif=exif, **options)).astype(int)
    assert np.abs(found - np.asarray(upright).astype(int)).max() < 30
    if orientation > 1 and image_format != "TIFF":  # a TIFF's orientation is no EXIF data but its own
        ignored = decoded(encode(stored, image_format, exif=exif, **options), exif_orientation=False)
        assert ignored.shape[:2] == (stored.height, stored.width)


def test_damaged_exif_data_does_not_spoil_a_sound_picture() -> None:
    image = noise(16, 16)
    for exif in (b"Exif\x00\x00garbage", b"Exif\x00\x00MM\x00*\xff\xff\xff\xff"):
        assert decoded(encode(image, "PNG", exif=exif)).shape == (16, 16, 3)


def test_the_limit_counts_pixels_and_comes_before_decoding() -> None:
    header = encode(noise(100, 100), "PNG")[:60]  # enough to know the size, not to decode
    assert decoded(encode(noise(100, 100), "PNG"), max_pixels=10_000).shape == (100, 100, 3)
    with pytest.raises(ImageTooLarge, match="100x100 = 10000 pixels; the limit is 9999"):
        decoded(header, max_pixels=9_999)


@pytest.mark.parametrize("other", ["PPM", "ICO", "TGA", "PCX", "SGI", "JPEG2000", "EPS"])
def test_formats_off_the_list_are_not_even_tried(other: str) -> None:
    with pytest.raises(UnsupportedImage):
        decoded(encode(noise(32, 32), other))


@pytest.mark.parametrize(
    ("brands", "name"),
    [
        (b"heic\0\0\0\0mif1heic", "HEIC"),
        (b"mif1\0\0\0\0mif1heix", "HEIC"),
        (b"mif1\0\0\0\0avif", "AVIF"),
        (b"avif", "AVIF"),
    ],
)
def test_formats_of_phones_are_refused_with_a_hint(brands: bytes, name: str) -> None:
    with pytest.raises(UnsupportedImage, match=rf"{name} images .* JPEG, PNG, WebP, GIF, BMP or TIFF.*magick.*iPhone"):
        decoded(b"\0\0\0\x18ftyp" + brands + bytes(50))
    with pytest.raises(UnsupportedImage, match=r"^not a JPEG, PNG"):
        decoded(b"\0\0\0\x18ftypmp42\0\0\0\0isom" + bytes(50))


def test_no_other_decoder_is_even_loaded_when_one_fails() -> None:
    script = (
        "import sys\nfrom aaserve.bundle.pictures.decoding import decode\n"
        "from aaserve.bundle.errors import InvalidImage\n"
        "for magic in (b'BM', b'II*\\0', b'\\xff\\xd8\\xff', b'RIFF0000WEBP'):\n"
        "    try: decode(magic + bytes(99), max_pixels=9, background=(0, 0, 0), exif_orientation=True)\n"
        "    except InvalidImage: pass\n"
        "    else: raise SystemExit('decoded')\n"
        "print([name for name in sys.modules if name.endswith(('EpsImagePlugin', 'FitsImagePlugin'))])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_empty_bytes_are_invalid() -> None:
    with pytest.raises(InvalidImage, match="empty"):
        decoded(b"")


def test_a_file_that_only_begins_like_a_picture_is_invalid() -> None:
    for magic in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"RIFF\0\0\0\0WEBP"):
        assert sniff_format(magic)
        with pytest.raises(InvalidImage):
            decoded(magic + b"garbage" * 20)


def test_every_truncation_of_a_picture_is_an_image_error_or_a_picture() -> None:
    for image_format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        whole = encode(noise(24, 24), image_format)
        for length in range(1, len(whole), max(1, len(whole) // 60)):
            try:
                decoded(whole[:length])
            except (InvalidImage, UnsupportedImage, ImageTooLarge):
                continue
