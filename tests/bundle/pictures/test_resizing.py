"""Resizing that is Pillow's up to rounding, for every shape that a picture may have."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aaserve.bundle.pictures.resizing import resize
from tests.helpers import noise

FILTERS = ["nearest", "bilinear", "bicubic", "lanczos"]


def differences(image: Image.Image, size: tuple[int, int], box: tuple[float, ...], interpolation: str) -> np.ndarray:
    found = resize(image, size, box, interpolation)
    assert (found.shape, found.dtype) == ((size[1], size[0], 3), np.uint8)
    assert found.flags.c_contiguous
    expected = np.asarray(image.resize(size, getattr(Image.Resampling, interpolation.upper()), box=box))
    return np.abs(found.astype(int) - expected)


@st.composite
def boxes(draw: st.DrawFn, width: int, height: int) -> tuple[float, float, float, float]:
    if draw(st.booleans()):
        return (0, 0, width, height)
    edges = []
    for length in (width, height):
        first = draw(st.floats(0, length - 0.5))
        edges.append((first, draw(st.floats(min(first + 0.25, length), length))))
    return (edges[0][0], edges[1][0], edges[0][1], edges[1][1])


@given(data=st.data(), interpolation=st.sampled_from(FILTERS), seed=st.integers(0, 9))
@settings(max_examples=300, deadline=None)
def test_pixels_are_pillows_up_to_rounding(data: st.DataObject, interpolation: str, seed: int) -> None:
    width, height = data.draw(st.integers(1, 400)), data.draw(st.integers(1, 400))
    size = data.draw(st.tuples(st.integers(1, 80), st.integers(1, 80)))
    box = data.draw(boxes(width, height))
    assert differences(noise(height, width, seed), size, box, interpolation).max() <= 2


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (3000, 200), (200, 3000), (900, 700)], ids=str)
def test_large_and_narrow_pictures_too(size: tuple[int, int], interpolation: str) -> None:
    image = noise(*size[::-1])
    whole = differences(image, (32, 40), (0, 0, *size), interpolation)
    assert whole.max() <= 2
    assert (whole > 0).mean() < 0.02
    assert differences(image, (32, 40), (0, size[1] * 0.4, size[0], size[1] * 0.45), interpolation).max() <= 2


@pytest.mark.parametrize("interpolation", FILTERS)
def test_a_picture_of_the_right_size_stays_as_it_is(interpolation: str) -> None:
    image = noise(30, 40)
    np.testing.assert_array_equal(resize(image, (40, 30), (0, 0, 40, 30), interpolation), np.asarray(image))
    part = resize(image, (16, 8), (3, 5, 19, 13), interpolation)
    np.testing.assert_array_equal(part, np.asarray(image.crop((3, 5, 19, 13))))


def test_pillow_does_it_where_the_library_has_no_wheel() -> None:
    """In a process of its own, on Linux on ARM as far as it can tell, where the library cannot be imported."""
    script = """
import platform, sys
sys.platform, platform.machine = "linux", lambda: "aarch64"
sys.modules["cykooz_resizer"] = None
import numpy as np
from aaserve.bundle.pictures.resizing import Image, resize
from tests.helpers import noise
image = noise(90, 70)
for name in ("nearest", "bilinear", "bicubic", "lanczos"):
    expected = image.resize((32, 20), getattr(Image.Resampling, name.upper()), box=(1, 2, 60.5, 80))
    np.testing.assert_array_equal(resize(image, (32, 20), (1, 2, 60.5, 80), name), np.asarray(expected))
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_reproducible_resize_is_pillows() -> None:
    image = noise(90, 70)
    box = (1, 2, 60.5, 80)
    found = resize(image, (32, 20), box, "bicubic", reproducible=True)
    np.testing.assert_array_equal(found, np.asarray(image.resize((32, 20), Image.Resampling.BICUBIC, box=box)))
