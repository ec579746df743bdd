"""Picture bytes --> upright RGB picture. Knows nothing of networks.

    bytes --magic number--> format on the list? --header--> few enough pixels? --decode--> RGB --EXIF--> upright
                                                              (JPEG: at 1/2, 1/4, 1/8 of its size, on request)

Only the decoder of the magic number is tried. Image.open is not used: it goes through a registry that any import may
extend, and its JPEG entry passes some files to the MPO plugin. Most of Pillow's vulnerabilities have been in its other
decoders.
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
    """Return "JPEG", "PNG", "WEBP", "GIF", "BMP" or "TIFF" by the magic number, otherwise None."""
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
    """An upright image in mode RGB, the picture's box in it, and the picture's full size (width, height).

    The box is the whole image unless the size was reduced.
    """

    image: Image.Image
    box: Box
    size: tuple[int, int]


def decode(
    image_bytes: bytes, *, max_pixels: int, background: tuple[int, int, int], exif_orientation: bool
) -> Image.Image:
    """Decode the first frame of a picture to mode RGB, at its full size.

    Args:
        max_pixels: limit for width times height, checked before decoding.
        background: RGB, 0..255, shown behind transparent pixels.
        exif_orientation: apply the EXIF orientation.

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
    """The same, but a JPEG is decoded at the smallest sufficient of 1/8, 1/4, 1/2 and its full size.

    Args:
        max_pixels: as for `decode`, for the full size.
        least_size: (width, height) of the upright picture at full size --> the size that suffices. None: full size.

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
    except Exception as error:  # on damaged bytes the decoders raise almost any exception
        raise InvalidImage(
            f"the {image_format} image is truncated, damaged or of a kind that is not supported"
        ) from error
    rgb, canvas = _to_rgb(image, background), stored.canvas
    del image, stored  # frees their memory for the next step
    rgb = _on_canvas(rgb, canvas, background)
    full = size if extent else rgb.size
    return Decoded(
        upright(rgb, orientation),
        upright_box(rgb.size, extent or rgb.size, orientation),
        full[::-1] if orientation in SWAPPED else full,
    )


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """The picture in mode RGB, with the background behind transparent pixels."""
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
