"""Pixels to tensors, and the spec that says how."""

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from aaserve.bundle.preprocessing import Preprocessing, normalise, preprocess
from tests.helpers import encode, noise, photograph

SPEC = {
    "colour": "RGB",
    "background": (255, 255, 255),
    "exif_orientation": True,
    "resize": 64,
    "interpolation": "bilinear",
    "crop": (56, 48),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}


def spec(**changes: object) -> Preprocessing:
    return Preprocessing.model_validate({**SPEC, **changes})


def pixels_of(tensor: np.ndarray, of: Preprocessing) -> np.ndarray:
    """The uint8 (H, W, 3) picture that a tensor was made of."""
    scaled = tensor.transpose(1, 2, 0) * np.array(of.std) + np.array(of.mean)
    return np.rint(scaled * 255).astype(np.uint8)


def test_answers_normalised_rgb_in_channel_first_order() -> None:
    red = Image.new("RGB", (64, 64), (255, 0, 51))
    tensor = preprocess(encode(red, "PNG"), spec(), max_pixels=10**6)
    assert (tensor.shape, tensor.dtype, tensor.flags.c_contiguous) == ((3, 56, 48), np.float32, True)
    expected = (np.array([1, 0, 0.2]) - np.array(SPEC["mean"])) / np.array(SPEC["std"])
    np.testing.assert_allclose(tensor.mean(axis=(1, 2)), expected, rtol=1e-5)
    assert tensor.std(axis=(1, 2)).max() < 1e-6


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(300, 200), (200, 300), (64, 64), (65, 300), (40, 70), (1000, 63)], ids=str)
def test_one_step_gives_the_pixels_of_resizing_everything_and_cropping_then(
    size: tuple[int, int], interpolation: str
) -> None:
    image = photograph().resize(size)
    chosen = spec(interpolation=interpolation)
    shorter = min(size)
    width, height = 64 * size[0] // shorter, 64 * size[1] // shorter
    left, top = round((width - 48) / 2), round((height - 56) / 2)
    resized = image.resize((width, height), getattr(Image.Resampling, interpolation.upper()))
    expected = np.asarray(resized.crop((left, top, left + 48, top + 56)), dtype=int)
    found = pixels_of(preprocess(encode(image, "PNG"), chosen, max_pixels=10**6), chosen).astype(int)
    assert np.abs(found - expected).max() <= 2


def test_an_exact_resize_does_not_keep_the_shape() -> None:
    chosen = spec(resize=(56, 48), interpolation="bicubic")
    expected = np.asarray(photograph().resize((48, 56), Image.Resampling.BICUBIC), dtype=int)
    found = pixels_of(preprocess(encode(photograph(), "PNG"), chosen, max_pixels=10**6), chosen)
    assert np.abs(found - expected).max() <= 1


def test_pictures_of_the_right_size_are_not_resampled() -> None:
    chosen = spec(resize=32, crop=(32, 32))
    image = noise(32, 32)
    found = pixels_of(preprocess(encode(image, "PNG"), chosen, max_pixels=10**6), chosen)
    np.testing.assert_array_equal(found, np.asarray(image))


def test_normalise_treats_a_batch_as_it_treats_each_picture() -> None:
    batch = np.stack([np.asarray(noise(8, 9, seed)) for seed in range(3)])
    found = normalise(batch, spec())
    assert found.shape == (3, 3, 8, 9)
    for i in range(3):
        np.testing.assert_array_equal(found[i], normalise(batch[i], spec()))


@pytest.mark.parametrize("field", SPEC)
def test_nothing_has_a_default(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        Preprocessing.model_validate({key: value for key, value in SPEC.items() if key != field})


@pytest.mark.parametrize(
    "changes",
    [
        {"crop": (65, 48)},
        {"resize": (64, 40)},
        {"std": (0.2, 0, 0.2)},
        {"std": (0.2, np.inf, 0.2)},
        {"mean": (0.5, np.nan, 0.5)},
        {"colour": "BGR"},
        {"resize": 0},
        {"gamma": 2},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(changes: dict) -> None:
    with pytest.raises(ValidationError):
        spec(**changes)
