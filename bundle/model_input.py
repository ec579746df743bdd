"""Picture bytes --> one row of a model's input, as its manifest says."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aaserve.bundle.manifest import Manifest
from aaserve.bundle.preprocessing import normalise, preprocess, read_pixels


def read_input(image_bytes: bytes, manifest: Manifest, *, max_pixels: int, reproducible: bool = False) -> NDArray[Any]:
    """Return float32 (3, H, W), normalised, or uint8 (H, W, 3): the input that the model takes.

    Args:
        reproducible: alike on every processor, as `bundle.resizing.resize` has it; for what is compared between them.

    Raises:
        UnsupportedImage, ImageTooLarge, InvalidImage: as `bundle.decoding.decode`.
    """
    read = read_pixels if manifest.input.dtype == "uint8" else preprocess
    return read(image_bytes, manifest.preprocessing, max_pixels=max_pixels, reproducible=reproducible)


def pixels_input(pixels: NDArray[np.uint8], manifest: Manifest) -> NDArray[Any]:
    """The same for pixels (H, W, 3) that are resized and cropped already."""
    return pixels if manifest.input.dtype == "uint8" else normalise(pixels, manifest.preprocessing)


def shown_pixels(row: NDArray[Any], manifest: Manifest) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) that a row of the model's input was made from: what the model sees."""
    if manifest.input.dtype == "uint8":
        return row
    std, mean = (np.asarray(values, np.float32) for values in (manifest.preprocessing.std, manifest.preprocessing.mean))
    pixels: NDArray[np.uint8] = np.rint(np.moveaxis(row, 0, -1) * std * 255 + mean * 255).clip(0, 255).astype(np.uint8)
    return pixels
