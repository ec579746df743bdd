"""A folder of pictures --> the network's inputs, for the parity check."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bundle.errors import ImageError
from bundle.preprocessing import Preprocessing, preprocess
from export.errors import ExportError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
MAX_PIXELS = 100_000_000


def read_pictures(folder: Path, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Preprocess every picture in `folder`, in the order of their names; (N, 3, H, W).

    Raises:
        ExportError: no picture there, or one that does not decode.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ExportError(f"{folder}: expected pictures for the parity check, found none")
    return np.stack([_read(path, preprocessing) for path in paths])


def _read(path: Path, preprocessing: Preprocessing) -> NDArray[np.float32]:
    try:
        return preprocess(path.read_bytes(), preprocessing, max_pixels=MAX_PIXELS)
    except ImageError as error:
        raise ExportError(f"{path}: {error}") from error
