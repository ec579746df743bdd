"""What the model sees can be shown again, for both kinds of input."""

import numpy as np

from aaserve.bundle.bundle import open_bundle
from aaserve.bundle.model_input import pixels_input, shown_pixels
from tests.helpers import REPOSITORY


def test_the_pixels_behind_an_input_are_found_again() -> None:
    manifest = open_bundle(REPOSITORY / "aa-cifar100" / "1").manifest
    floats = manifest.input.model_copy(update={"dtype": "float32", "layout": "NCHW", "shape": (3, 32, 32)})
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for taken in (manifest, manifest.model_copy(update={"input": floats})):
        np.testing.assert_array_equal(shown_pixels(pixels_input(pixels, taken), taken), pixels)
