"""Preprocessed reference pictures in a bundle, so that a server can compare its answers on real pictures.

pixels after resize and crop --PNG--> reference-1.png, …, reference-8.png   (--store-reference-pictures)
"""

import io
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aaserve.bundle.bundle import Bundle
from aaserve.bundle.errors import BundleError, ImageError
from aaserve.bundle.manifest import REFERENCE_PICTURE, Manifest
from aaserve.bundle.pictures.decoding import decode

MOST = 8


def stored_pictures(pictures: Sequence[NDArray[np.uint8]]) -> dict[str, bytes]:
    """The files of the first pictures, each (H, W, 3)."""
    files = {}
    for number, pixels in enumerate(pictures[:MOST], start=1):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", optimize=True)
        files[f"reference-{number}.png"] = file.getvalue()
    return files


def reference_picture_names(manifest: Manifest) -> list[str]:
    """The files of a bundle that are reference pictures; older bundles have none."""
    return sorted(name for name in manifest.files if re.fullmatch(REFERENCE_PICTURE, name))


def read_reference_pictures(bundle: Bundle) -> list[NDArray[np.uint8]]:
    """The pixels (H, W, 3) of all reference pictures in the bundle.

    Raises:
        BundleError: a file differs from the manifest, or is not a picture with the network's input size.
    """
    height, width = bundle.manifest.preprocessing.crop
    found = []
    for name in reference_picture_names(bundle.manifest):
        path = bundle.folder / name
        try:
            image = decode(
                bundle.content(name), max_pixels=height * width, background=(0, 0, 0), exif_orientation=False
            )
        except ImageError as error:
            raise BundleError(f"{path}: expected a picture of {width}x{height} pixels, found: {error}") from error
        if image.size != (width, height):
            raise BundleError(f"{path}: expected {width}x{height} pixels, found {image.width}x{image.height}")
        found.append(np.asarray(image))
    return found
