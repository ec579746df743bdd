"""A folder of pictures --> pixels, for the parity check and for calibration."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aaserve.bundle.bundle import sha256_of
from aaserve.bundle.errors import ImageError
from aaserve.bundle.manifest import Manifest
from aaserve.bundle.model_input import read_sized_input
from aaserve.bundle.pictures.picture_files import find_pictures, told
from aaserve.bundle.preprocessing import Preprocessing, read_pixels
from aaserve.export.errors import ExportError

MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class Picture:
    """A picture's file name, the sha256 of its bytes, and its preprocessed pixels, uint8 (H, W, 3)."""

    name: str
    sha256: str
    pixels: NDArray[np.uint8]


def find_parity_pictures(folder: Path, report: Callable[[str], None]) -> tuple[Path, ...]:
    """The pictures directly in `folder`, sorted; `report` gets a summary.

    Raises:
        ExportError: there are none.
        ValueError: something cannot be read, or a file with a picture's suffix is not a picture.
    """
    found = find_pictures(folder)
    if not found.pictures:
        inner = f"; its {len(found.folders)} folders are not looked into" if found.folders else ""
        raise ExportError(f"{folder}: expected pictures for the parity check, found none{inner}")
    left_out = found.left_out + Counter({"folders": len(found.folders)})
    text = f"{len(found.pictures):,} pictures for the parity check in {folder}"
    report(f"{text}; {told(left_out)}" if left_out else text)
    return found.pictures


def read_picture(path: Path, preprocessing: Preprocessing) -> Picture:
    """Decode, resize and crop one picture like the service, except for rounding.

    Raises:
        ExportError: it does not decode.
    """
    with _reading(path):
        image_bytes = path.read_bytes()
        pixels = read_pixels(image_bytes, preprocessing, max_pixels=MAX_PIXELS, reproducible=True)
    return Picture(path.name, sha256_of(image_bytes), pixels)


def read_row(path: Path, manifest: Manifest) -> tuple[NDArray[Any], tuple[int, int]]:
    """One row of a model's input, as the service reads it, and (width, height) of the upright picture.

    Raises:
        ExportError: it does not decode.
    """
    with _reading(path):
        return read_sized_input(path.read_bytes(), manifest, max_pixels=MAX_PIXELS)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What goes wrong names the file."""
    try:
        yield
    except ImageError as error:
        raise ExportError(f"{path}: {error}") from error
    except OSError as error:
        raise ExportError(f"{path}: expected a readable file, found: {error.strerror or error}") from error
