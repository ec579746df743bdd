"""Picture bytes --> upright RGB picture. Knows nothing of networks.

    bytes --magic number--> format on the list? --header--> few enough pixels? --decode--> RGB --EXIF--> upright
                                                              (JPEG: at 1/2, 1/4, 1/8 of its size, where asked)

Only the one decoder that the magic number names is ever tried. Image.open is not asked: it looks through a registry
that any import may add to, and its JPEG entry hands some files to the MPO plugin. Pillow's other decoders are where
most of its vulnerabilities have been.
"""

from collections.abc import Callable
from typing import NamedTuple

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from bundle.containers.bmp import read_bmp
from bundle.containers.exif import UNTURNED, upright
from bundle.containers.gif import read_gif
from bundle.containers.jpeg import read_jpeg
from bundle.containers.png import read_png
from bundle.containers.stored import Canvas
from bundle.containers.tiff import read_tiff
from bundle.containers.webp import read_webp
from bundle.errors import ImageError, InvalidImage, UnsupportedImage
from bundle.reduced_jpeg import SWAPPED, Box, reduce, upright_box

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
_READERS = {
    "JPEG": read_jpeg,
    "PNG": read_png,
    "GIF": read_gif,
    "BMP": read_bmp,
    "TIFF": read_tiff,
    "WEBP": read_webp,
}
_STRIP = 2**18  # pixels that are converted at once, so that a large picture is not there several times
LeastSize = Callable[[int, int], tuple[float, float]]
_OPAQUE_MODES = {"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"}
_ALPHA_MODES = {"LA", "PA", "RGBA"}


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
    try:
        stored = _READERS[image_format](image_bytes, max_pixels=max_pixels)
        image, orientation = stored.image, stored.orientation if exif_orientation else UNTURNED
        extent = None
        if isinstance(image, JpegImageFile) and least_size:
            width, height = image.size
            least = least_size(height, width)[::-1] if orientation in SWAPPED else least_size(width, height)
            extent = reduce(image, least)
        image.load()
    except ImageError:
        raise
    except Exception as error:  # damaged bytes make the decoders raise nearly anything
        raise InvalidImage(
            f"the {image_format} image is truncated, damaged or of a kind that is not supported"
        ) from error
    rgb = _on_canvas(_to_rgb(image, background), stored.canvas, background)
    return Decoded(upright(rgb, orientation), upright_box(rgb.size, extent or rgb.size, orientation))


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """The picture in mode RGB, with the background behind its transparent pixels."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image  # convert would copy it
    if image.mode not in _OPAQUE_MODES | _ALPHA_MODES:
        raise InvalidImage(f"pixels of kind {image.mode} have no defined colour; send 8- or 16-bit grey, RGB or CMYK")
    transparent = image.has_transparency_data
    rows = max(1, _STRIP // image.width)
    rgb = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        if transparent:
            strip = Image.alpha_composite(Image.new("RGBA", strip.size, (*background, 255)), strip.convert("RGBA"))
        rgb.paste(strip.convert("RGB"), (0, top))
    return rgb


def _on_canvas(rgb: Image.Image, canvas: Canvas | None, background: tuple[int, int, int]) -> Image.Image:
    if canvas is None:
        return rgb
    whole = Image.new("RGB", (canvas.width, canvas.height), background)
    whole.paste(rgb, (canvas.left, canvas.top))
    return whole
