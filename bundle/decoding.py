"""Picture bytes --> upright RGB picture. Knows nothing of networks.

    bytes --magic number--> format on the list? --header--> few enough pixels? --decode--> RGB --EXIF--> upright
                                                              (JPEG: at 1/2, 1/4, 1/8 of its size, where asked)

Only the one decoder that the magic number names is ever tried. Image.open is not asked: it looks through a registry
that any import may add to, and its JPEG entry hands some files to the MPO plugin. Pillow's other decoders are where
most of its vulnerabilities have been.
"""

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from bundle.errors import ImageError, ImageTooLarge, InvalidImage, UnsupportedImage
from bundle.jpeg_scans import MAX_SCANS, too_many_scans
from bundle.plain_png import plain_png_size, read_plain_png
from bundle.reduced_jpeg import SWAPPED, Box, reduce, upright_box
from bundle.tiff_layout import check_tiff_layout

_MAGIC_NUMBERS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_DECODERS: dict[str, type[ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "WEBP": WebPImageFile,
}
_UPRIGHT = {  # EXIF orientation --> what makes the picture upright (TIFF 6.0, tag 274)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LeastSize = Callable[[int, int], tuple[float, float]]
_OPAQUE_MODES = {"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"}
_ALPHA_MODES = {"LA", "PA", "RGBA", "RGBa"}


def sniff_format(image_bytes: bytes) -> str | None:
    """Return "JPEG", "PNG", "WEBP", "GIF", "BMP" or "TIFF" by the magic number, None if it is none of them."""
    if image_bytes[:4] == b"RIFF" and image_bytes[8:12] == b"WEBP":
        return "WEBP"
    return next((name for magic, name in _MAGIC_NUMBERS if image_bytes.startswith(magic)), None)


class Decoded(NamedTuple):
    """An upright picture in mode RGB, and where in it the picture lies: all of it, unless its size was reduced."""

    image: Image.Image
    box: Box


def decode(
    image_bytes: bytes, *, max_pixels: int, background: tuple[int, int, int], exif_orientation: bool
) -> Image.Image:
    """Decode the first frame of a picture to mode RGB, at its full size.

    Args:
        max_pixels: width times height, at most; checked before anything is decoded.
        background: RGB, 0..255, seen through transparent pixels.
        exif_orientation: turn the picture upright as its EXIF data says.

    Raises:
        UnsupportedImage: none of JPEG, PNG, WebP, GIF, BMP, TIFF.
        ImageTooLarge: more than `max_pixels`.
        InvalidImage: empty, truncated, damaged, or with pixels that have no defined colour.
    """
    return decode_reduced(
        image_bytes, max_pixels=max_pixels, background=background, exif_orientation=exif_orientation, least_size=None
    ).image


def decode_reduced(
    image_bytes: bytes,
    *,
    max_pixels: int,
    background: tuple[int, int, int],
    exif_orientation: bool,
    least_size: LeastSize | None,
) -> Decoded:
    """The same, but a JPEG picture at the smallest of 1/8, 1/4, 1/2 and all of its size that is enough.

    Args:
        max_pixels: as for `decode`, of the full size.
        least_size: (width, height) of the upright picture at its full size --> of what is enough. None: the full size.

    Raises:
        UnsupportedImage, ImageTooLarge, InvalidImage: as `decode`.
    """
    if not image_bytes:
        raise InvalidImage("the image is empty")
    image_format = sniff_format(image_bytes)
    if image_format is None:
        raise UnsupportedImage("not a JPEG, PNG, WebP, GIF, BMP or TIFF image")
    if image_format == "PNG" and (size := plain_png_size(image_bytes)):
        if size[0] * size[1] > max_pixels:
            raise _too_large(max_pixels)
        if plain := read_plain_png(image_bytes):
            return Decoded(plain, (0, 0, *size))
    image, extent, orientation = _load(image_bytes, image_format, max_pixels, exif_orientation, least_size)
    rgb = _to_rgb(image, background)
    box = upright_box(rgb.size, extent or rgb.size, orientation)
    return Decoded(rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb, box)


def _load(
    image_bytes: bytes, image_format: str, max_pixels: int, exif_orientation: bool, least_size: LeastSize | None
) -> tuple[Image.Image, tuple[float, float] | None, int]:
    """Decode with Pillow; return the picture in its own mode, its reduced size if it has one, and how to turn it."""
    if image_format == "JPEG" and too_many_scans(image_bytes):
        raise InvalidImage(f"the JPEG image has more than {MAX_SCANS} scans")
    if image_format == "TIFF":
        check_tiff_layout(image_bytes, max_pixels=max_pixels)
    extent = None
    try:
        image = _DECODERS[image_format](io.BytesIO(image_bytes))
        width, height = image.size
        if width * height > max_pixels:
            raise _too_large(max_pixels)
        if isinstance(image, JpegImageFile):
            image.decodermaxblock = len(image_bytes)  # libjpeg gets it all at once, outside the interpreter lock
            if least_size:
                swapped = exif_orientation and _orientation(image) in SWAPPED
                extent = reduce(image, least_size(height, width)[::-1] if swapped else least_size(width, height))
        image.load()
        return image, extent, _orientation(image) if exif_orientation else 1
    except ImageError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, met while it reads the header
        raise _too_large(max_pixels) from error
    except Exception as error:  # damaged bytes make the decoders raise nearly anything
        raise InvalidImage(
            f"the {image_format} image is truncated, damaged or of a kind that is not supported"
        ) from error


def _too_large(max_pixels: int) -> ImageTooLarge:
    return ImageTooLarge(f"the image has more than {max_pixels} pixels")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged metadata is no reason to refuse a sound picture; viewers ignore it too
        return 1


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image  # convert would copy it
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255 instead of scaling
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in _ALPHA_MODES or (image.mode in _OPAQUE_MODES and image.has_transparency_data):
        backdrop = Image.new("RGBA", image.size, (*background, 255))
        return Image.alpha_composite(backdrop, image.convert("RGBA")).convert("RGB")
    if image.mode in _OPAQUE_MODES:
        return image.convert("RGB")
    raise InvalidImage(f"pixels of kind {image.mode} have no defined colour; send 8- or 16-bit grey, RGB or CMYK")
