"""A folder of pictures --> pixels, for the parity check and for calibration."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bundle.bundle import sha256_of
from bundle.errors import ImageError
from bundle.preprocessing import Preprocessing, read_pixels
from export.errors import ExportError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class Picture:
    """A picture's file name, the sha256 of its bytes, and its pixels as the network sees them, uint8 (H, W, 3)."""

    name: str
    sha256: str
    pixels: NDArray[np.uint8]


def read_pictures(folder: Path, preprocessing: Preprocessing) -> list[Picture]:
    """Read every picture in `folder`, sorted by name.

    Raises:
        ExportError: there is no picture, or one does not decode.
    """
    paths = picture_paths(folder)
    if not paths:
        raise ExportError(f"{folder}: expected pictures for the parity check, found none")
    return [read_picture(path, preprocessing) for path in paths]


def picture_paths(folder: Path) -> list[Path]:
    """The files in `folder` with the suffix of a picture, sorted."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)


def read_picture(path: Path, preprocessing: Preprocessing) -> Picture:
    """Decode, resize and crop one picture as the service does, except for rounding.

    Raises:
        ExportError: it does not decode.
    """
    image_bytes = path.read_bytes()
    try:
        pixels = read_pixels(image_bytes, preprocessing, max_pixels=MAX_PIXELS, reproducible=True)
    except ImageError as error:
        raise ExportError(f"{path}: {error}") from error
    return Picture(path.name, sha256_of(image_bytes), pixels)
