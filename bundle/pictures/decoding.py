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

from aaserve.bundle.errors import ImageError, ImageTooLarge, InvalidImage, UnsupportedImage
from aaserve.bundle.pictures.containers.bmp import read_bmp
from aaserve.bundle.pictures.containers.exif import UNTURNED, upright
from aaserve.bundle.pictures.containers.gif import read_gif
from aaserve.bundle.pictures.containers.jpeg import read_jpeg
from aaserve.bundle.pictures.containers.png import read_png
from aaserve.bundle.pictures.containers.stored import Canvas, by_strips
from aaserve.bundle.pictures.containers.tiff import read_tiff
from aaserve.bundle.pictures.containers.webp import read_webp
from aaserve.bundle.pictures.reduced_jpeg import SWAPPED, Box, reduce, upright_box

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
_ACCEPTED = "JPEG, PNG, WebP, GIF, BMP or TIFF"
_PHONE_BRANDS = ((b"avif", "AVIF"), (b"avis", "AVIF"), (b"hei", "HEIC"), (b"hev", "HEIC"), (b"mif1", "HEIC"))
LeastSize = Callable[[int, int], tuple[float, float]]
_OPAQUE_MODES = {"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"}
_ALPHA_MODES = {"LA", "PA", "RGBA"}


def sniff_format(image_bytes: bytes) -> str | None:
    """Return "JPEG", "PNG", "WEBP", "GIF", "BMP" or "TIFF" by the magic number, None if it is none of them."""
    if image_bytes[:4] == b"RIFF" and image_bytes[8:12] == b"WEBP":
        return "WEBP"
    return next((name for magic, name in _MAGIC_NUMBERS if image_bytes.startswith(magic)), None)


def _unsupported(image_bytes: bytes) -> str:
    """The error message for a format that is not supported."""
    brands = image_bytes[8:64] if image_bytes[4:8] == b"ftyp" else b""  # ISO/IEC 14496-12, section 4.3
    if name := next((name for brand, name in _PHONE_BRANDS if brand in brands), None):
        return (
            f"{name} images are not supported; send {_ACCEPTED}. Convert the image (magick IN.{name.lower()} OUT.jpg), "
            "or have the phone save JPEG (iPhone: Settings, Camera, Formats, Most Compatible)"
        )
    return f"not a {_ACCEPTED} image; convert it to one of these (magick IN OUT.jpg)"


class Decoded(NamedTuple):
    """An upright picture in mode RGB, where in it the picture lies, and (width, height) at its full size.

    The picture is all of the image, unless its size was reduced.
    """

    image: Image.Image
    box: Box
    size: tuple[int, int]


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
        raise UnsupportedImage(_unsupported(image_bytes))
    try:
        stored = _READERS[image_format](image_bytes, max_pixels=max_pixels)
        image, orientation = stored.image, stored.orientation if exif_orientation else UNTURNED
        extent, size = None, image.size
        if isinstance(image, JpegImageFile) and least_size:
            width, height = size
            least = least_size(height, width)[::-1] if orientation in SWAPPED else least_size(width, height)
            extent = reduce(image, least)
        image.load()
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLarge("the image has more pixels than Pillow decodes") from error
    except Exception as error:  # damaged bytes make the decoders raise nearly anything
        raise InvalidImage(
            f"the {image_format} image is truncated, damaged or of a kind that is not supported"
        ) from error
    rgb, canvas = _to_rgb(image, background), stored.canvas
    del image, stored  # their memory is needed for what follows
    rgb = _on_canvas(rgb, canvas, background)
    full = size if extent else rgb.size
    return Decoded(
        upright(rgb, orientation),
        upright_box(rgb.size, extent or rgb.size, orientation),
        full[::-1] if orientation in SWAPPED else full,
    )


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """The picture in mode RGB, with the background behind its transparent pixels."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image  # convert would copy it
    if image.mode not in _OPAQUE_MODES | _ALPHA_MODES:
        raise InvalidImage(f"pixels of kind {image.mode} have no defined colour; send 8- or 16-bit grey, RGB or CMYK")
    transparent = image.has_transparency_data

    def converted(strip: Image.Image) -> Image.Image:
        if transparent:
            strip = Image.alpha_composite(Image.new("RGBA", strip.size, (*background, 255)), strip.convert("RGBA"))
        return strip.convert("RGB")

    return by_strips("RGB", converted, image)


def _on_canvas(rgb: Image.Image, canvas: Canvas | None, background: tuple[int, int, int]) -> Image.Image:
    if canvas is None:
        return rgb
    whole = Image.new("RGB", (canvas.width, canvas.height), background)
    whole.paste(rgb, (canvas.left, canvas.top))
    return whole
