"""TIFF files: the first directory, without the tags that pixels do not need (TIFF 6.0).

    file --> the same bytes with our own directory at the end --> Pillow, libtiff --> samples with a defined meaning

After a damaged tag, Pillow ignores the tags that follow. libtiff allocates memory for a whole tile even for a tiny
picture, and reads the bytes of a tile again for each tile that points to them: a few hundred bytes can cost gigabytes,
and a few million can cost minutes. Pillow treats the upper byte of 16-bit samples in planes as the sample. It reads
neither such samples with white at 0 nor grey ones with an alpha channel. This module handles all this in the directory.
"""

import io
import struct
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops
from PIL.TiffImagePlugin import TiffImageFile

from aaserve.bundle.errors import InvalidImage
from aaserve.bundle.pictures.containers.directory import Directory, read_directory
from aaserve.bundle.pictures.containers.exif import UNTURNED, upright
from aaserve.bundle.pictures.containers.stored import Stored, by_strips, check_size, upper_byte

MAX_PIECES = 65_536  # strips or tiles
_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH = 256, 257, 322, 323
_BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _PLANES = 258, 259, 262, 274, 277, 284
_PREDICTOR, _COLOUR_MAP, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _SUBSAMPLING = 317, 320, 338, 339, 530
_OFFSETS, _BYTE_COUNTS = (273, 324), (279, 325)  # of strips, of tiles
_LAYOUT = frozenset({_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH, *_OFFSETS, *_BYTE_COUNTS})
_JPEG_TAGS = frozenset({347, 512, 513, 514, 515, 519, 520, 521})  # JPEGTables, and the tags of TIFF 6.0
_FAX_TAGS = frozenset({292, 293})  # T4Options, T6Options
_YCBCR_TAGS = frozenset({_SUBSAMPLING, 529, 531, 532})  # YCbCrCoefficients, YCbCrPositioning, ReferenceBlackWhite
_NEEDED = (
    _LAYOUT
    | {_BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _PLANES}
    | {_PREDICTOR, _COLOUR_MAP, _EXTRA_SAMPLES, _SAMPLE_FORMAT, 266, 278}  # FillOrder, RowsPerStrip
    | _JPEG_TAGS
    | _FAX_TAGS
    | _YCBCR_TAGS
)
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _CMYK: 4}  # samples per pixel without extra ones
_NAMES = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "CIE L*a*b*"}
_FORMATS = {1: "unsigned integer", 2: "signed integer", 3: "floating-point"}
_ASSOCIATED, _UNASSOCIATED = 1, 2  # alpha with premultiplied colours, or without
_UNASSOCIATED_MODES = {"La": "LA", "RGBa": "RGBA"}
_FAX, _JPEG = (2, 3, 4), (6, 7)  # compressions
_NO_COMPRESSION = _NO_PREDICTOR = 1
_DIFFERENCES = 2


class _Kind(NamedTuple):
    """The meaning of the samples of a picture."""

    photometric: int
    bits: int
    samples: int  # per pixel
    extra: int | None  # the meaning of the first sample that is not a colour
    planar: bool

    @property
    def name(self) -> str:
        return f"{self.bits}-bit {_NAMES.get(self.photometric, f'photometric {self.photometric}')}"


def read_tiff(image_bytes: bytes, *, max_pixels: int) -> Stored:
    """Decode the first picture of a TIFF file, turned according to its orientation tag.

    Raises:
        ImageTooLarge, InvalidImage: as `read_layout`.
        InvalidImage: pixels that have no defined colour.
    """
    directory = read_layout(image_bytes, max_pixels=max_pixels)
    image = _decoded(directory, _kind(directory))
    return Stored(upright(image, directory.number(_ORIENTATION, UNTURNED)))


def read_layout(image_bytes: bytes, *, max_pixels: int) -> Directory:
    """Return the first directory if the cost of decoding fits the size of the picture.

    Raises:
        ImageTooLarge: the picture or a single tile has more than `max_pixels`.
        InvalidImage: no readable directory, more than MAX_PIECES strips or tiles, or strips or tiles with more than
            twice the bytes of the file in total (a single wrong count is common and harmless).
    """
    try:
        directory = read_directory(image_bytes, _NEEDED)
        layout = {tag: directory.values(tag) for tag in _LAYOUT}
    except (struct.error, ValueError, OverflowError) as error:
        raise InvalidImage("the TIFF image has no readable directory") from error
    for sides in ((_WIDTH, _LENGTH), (_TILE_WIDTH, _TILE_LENGTH)):
        width, length = (directory.number(tag, 0) for tag in sides)
        check_size(width, length, max_pixels=max_pixels)
    if any(len(layout[tag]) > MAX_PIECES for tag in _OFFSETS + _BYTE_COUNTS):
        raise InvalidImage(f"the TIFF image has more than {MAX_PIECES} strips or tiles")
    size = len(image_bytes)
    if any(sum(min(int(count), size) for count in layout[tag]) > 2 * size for tag in _BYTE_COUNTS):
        raise InvalidImage("the strips or tiles of the TIFF image share bytes")
    return directory


def _kind(directory: Directory) -> _Kind:
    """The meaning of the samples; raise InvalidImage if no colour is defined for them."""
    samples = directory.number(_SAMPLES, 1)
    photometric = directory.number(_PHOTOMETRIC, _BLACK_IS_ZERO if samples < 3 else _RGB)  # the tag is often missing
    if directory.number(_COMPRESSION, _NO_COMPRESSION) in _FAX:
        photometric = directory.number(_PHOTOMETRIC, _WHITE_IS_ZERO)
    bits = {int(found) for found in directory.values(_BITS)[:samples]} or {1}
    extra = directory.values(_EXTRA_SAMPLES)
    planar = directory.number(_PLANES, 1) == 2 and samples > 1
    kind = _Kind(photometric, max(bits), samples, int(extra[0]) if len(extra) else None, planar)
    formats = {int(found) for found in directory.values(_SAMPLE_FORMAT)} or {1}
    if formats != {1}:
        names = " and ".join(_FORMATS.get(one, "undefined") for one in sorted(formats))
        raise _no_colour(f"{kind.name} of {names} samples")
    raw = directory.number(_COMPRESSION, _NO_COMPRESSION) == _NO_COMPRESSION
    if photometric == _YCBCR and raw and (kind.planar or set(directory.values(_SUBSAMPLING).tolist() or [2]) != {1}):
        raise _no_colour("uncompressed YCbCr with fewer samples of colour than of light, or in planes")
    if len(bits) > 1 or kind.bits not in (1, 2, 4, 8, 12, 16) or photometric not in (*_COLOURS, _PALETTE, _YCBCR):
        raise _no_colour(kind.name)
    return kind


def _decoded(directory: Directory, kind: _Kind) -> Image.Image:
    """The picture in a mode with 8 bits per sample."""
    new: dict[int, Sequence[int]] = {_PHOTOMETRIC: [kind.photometric], _PLANES: [2 if kind.planar else 1]}
    inverted = kind.photometric == _WHITE_IS_ZERO and (kind.bits > 8 or kind.samples > 1)
    if inverted:
        new[_PHOTOMETRIC] = [_BLACK_IS_ZERO]
    if kind.planar and kind.photometric in _COLOURS:
        image = _planes(directory, kind)
    elif kind.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) and (kind.bits, kind.samples) == (16, 2):
        image = _grey_and_alpha(directory, kind)
    else:
        if kind.photometric == _PALETTE:
            new[_COLOUR_MAP] = _colour_map(directory, kind)
        image = _by_pillow(directory, new)
        if image.mode.startswith("I;16"):
            image = upper_byte(image, kind.bits)
    if image.mode in _UNASSOCIATED_MODES:
        image = image.convert(_UNASSOCIATED_MODES[image.mode])
    if inverted:
        grey, *alpha = image.split()
        image = Image.merge(image.mode, (ImageChops.invert(grey), *alpha))
    return image


def _by_pillow(directory: Directory, new: Mapping[int, Sequence[int]], without: Collection[int] = ()) -> Image.Image:
    """The picture with `new` tags; tags of other kinds of pictures and metadata are left out."""
    compression = directory.number(_COMPRESSION, _NO_COMPRESSION)
    left_out = {_ORIENTATION, *without}
    left_out |= set() if compression in _JPEG else _JPEG_TAGS
    left_out |= set() if compression in _FAX else _FAX_TAGS
    left_out |= set() if compression in _JPEG or _YCBCR in new[_PHOTOMETRIC] else _YCBCR_TAGS
    left_out |= set() if _PALETTE in new[_PHOTOMETRIC] else {_COLOUR_MAP}
    image = TiffImageFile(io.BytesIO(directory.written(new, without=left_out)))
    image.load()
    return image


def _planes(directory: Directory, kind: _Kind) -> Image.Image:
    """A picture in planes; each plane is decoded as a grey picture."""
    colours = _COLOURS[kind.photometric]
    alpha = kind.samples > colours and kind.extra in (_ASSOCIATED, _UNASSOCIATED) and kind.photometric != _CMYK
    planes = []
    for plane in range(colours + alpha):
        new: dict[int, Sequence[int]] = {
            _BITS: [kind.bits],
            _SAMPLES: [1],
            _PHOTOMETRIC: [_BLACK_IS_ZERO],
            _PLANES: [1],
        }
        for tag in _OFFSETS + _BYTE_COUNTS:
            values = directory.values(tag)
            pieces = len(values) // kind.samples
            if len(values):
                new[tag] = values[plane * pieces : (plane + 1) * pieces].tolist()
        image = _by_pillow(directory, new, (_EXTRA_SAMPLES, _SAMPLE_FORMAT))
        planes.append(upper_byte(image, kind.bits) if image.mode.startswith("I;16") else image.convert("L"))
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[colours]
    if alpha:
        mode += "a" if kind.extra == _ASSOCIATED else "A"
    return Image.merge(mode, planes)


def _grey_and_alpha(directory: Directory, kind: _Kind) -> Image.Image:
    """A picture with two samples of 16 bits, decoded as four samples of 8 bits, their bytes."""
    new = {_BITS: [8] * 4, _SAMPLES: [4], _PHOTOMETRIC: [_RGB], _EXTRA_SAMPLES: [_UNASSOCIATED]}
    image = _by_pillow(directory, new, (_PREDICTOR, _SAMPLE_FORMAT))
    predictor = directory.number(_PREDICTOR, _NO_PREDICTOR)
    if directory.number(_COMPRESSION, _NO_COMPRESSION) == _NO_COMPRESSION:
        predictor = _NO_PREDICTOR
    if predictor not in (_NO_PREDICTOR, _DIFFERENCES):
        raise _no_colour(f"{kind.name} with predictor {predictor}")
    step = directory.number(_TILE_WIDTH, image.width) or image.width
    mode = {_ASSOCIATED: "La", _UNASSOCIATED: "LA"}.get(kind.extra or 0, "L")

    def converted(strip: Image.Image) -> Image.Image:
        samples = np.array(strip).view(directory.order + "u2")  # (rows, width, 2)
        for left in range(0, image.width if predictor == _DIFFERENCES else 0, step):  # each tile starts anew
            piece = samples[:, left : left + step]
            piece[...] = np.cumsum(piece, axis=1, dtype=np.uint16)
        grey, alpha = (Image.fromarray((samples[..., index] >> 8).astype(np.uint8)) for index in range(2))
        return grey if mode == "L" else Image.merge(mode, (grey, alpha))

    return by_strips(mode, converted, image)


def _colour_map(directory: Directory, kind: _Kind) -> Sequence[int]:
    """The palette with values of 16 bits. Like libtiff, accept values of 8 bits, which some programs write."""
    values = directory.values(_COLOUR_MAP)
    if kind.bits > 8 or len(values) != 3 << kind.bits:
        raise InvalidImage(f"the palette of the TIFF image has {len(values)} values; expected {3 << kind.bits}")
    found: list[int] = (values.astype(np.int64) * (257 if values.max() < 256 else 1)).tolist()
    return found


def _no_colour(kind: str) -> InvalidImage:
    return InvalidImage(f"TIFF images of {kind} are not supported; send 8- or 16-bit grey, RGB or CMYK")
