"""Picture bytes --> a row of the model's input. PEER_READER chooses one of two readers.

pillow   handwritten: https://github.com/ray-project/ray/blob/master/doc/source/serve/doc_code/resnet50_example.py
bundle   aaserve's own code
"""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from aaserve.bundle.manifest import Manifest
from aaserve.bundle.model_input import pixels_input, read_input

MAX_PIXELS = 50_000_000  # the service's default


def by_hand(picture: bytes, manifest: Manifest) -> NDArray[Any]:
    """With the sizes of torchvision's Resize and CenterCrop, and only Pillow's limits."""
    spec = manifest.preprocessing
    image: Image.Image = Image.open(io.BytesIO(picture))
    if spec.exif_orientation:
        ImageOps.exif_transpose(image, in_place=True)
    image = image.convert("RGB")
    if isinstance(spec.resize, int):
        shorter = min(image.size)
        width, height = (spec.resize * side // shorter for side in image.size)
    else:
        height, width = spec.resize
    image = image.resize((width, height), Image.Resampling[spec.interpolation.upper()])
    crop_height, crop_width = spec.crop
    left, top = round((width - crop_width) / 2), round((height - crop_height) / 2)
    return pixels_input(np.asarray(image.crop((left, top, left + crop_width, top + crop_height))), manifest)


def as_aaserve(picture: bytes, manifest: Manifest) -> NDArray[Any]:
    return read_input(picture, manifest, max_pixels=MAX_PIXELS)


READERS = {"pillow": by_hand, "bundle": as_aaserve}
