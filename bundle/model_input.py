"""Picture bytes --> one row of a model's input, according to its manifest."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aaserve.bundle.manifest import Manifest
from aaserve.bundle.preprocessing import normalise, read_picture


def read_input(image_bytes: bytes, manifest: Manifest, *, max_pixels: int, reproducible: bool = False) -> NDArray[Any]:
    """Return float32 (3, H, W), normalised, or uint8 (H, W, 3): the input that the model takes.

    Args:
        reproducible: the same on every processor, for comparisons between machines; see
            `bundle.pictures.resizing.resize`.

    Raises:
        UnsupportedImage, ImageTooLarge, InvalidImage: as `bundle.pictures.decoding.decode`.
    """
    return read_sized_input(image_bytes, manifest, max_pixels=max_pixels, reproducible=reproducible)[0]


def read_sized_input(
    image_bytes: bytes, manifest: Manifest, *, max_pixels: int, reproducible: bool = False
) -> tuple[NDArray[Any], tuple[int, int]]:
    """The same, and (width, height) of the upright picture."""
    pixels, size = read_picture(image_bytes, manifest.preprocessing, max_pixels=max_pixels, reproducible=reproducible)
    return pixels_input(pixels, manifest), size


def pixels_input(pixels: NDArray[np.uint8], manifest: Manifest) -> NDArray[Any]:
    """The same for pixels (H, W, 3) that are already resized and cropped."""
    return pixels if manifest.input.dtype == "uint8" else normalise(pixels, manifest.preprocessing)


def shown_pixels(row: NDArray[Any], manifest: Manifest) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) from which a row of the model's input was made: what the model sees."""
    if manifest.input.dtype == "uint8":
        return row
    std, mean = (np.asarray(values, np.float32) for values in (manifest.preprocessing.std, manifest.preprocessing.mean))
    pixels: NDArray[np.uint8] = np.rint(np.moveaxis(row, 0, -1) * std * 255 + mean * 255).clip(0, 255).astype(np.uint8)
    return pixels
