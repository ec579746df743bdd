"""What a batch looks like after augmentation; RandAugment's operations mean what they mean in Pillow."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from bundle.preprocessing import normalise
from tests.helpers import photograph
from tests.training.tiny import recipe
from training.augmentation import augment, crop_and_mirror, draws_per_image
from training.mixing import Mix, draw_mix, mix
from training.randaugment import DRAWS_PER_OPERATION, OPERATIONS, randaugment
from training.recipe import Augmentation

PICTURE = photograph().resize((32, 32))
FILL = torch.zeros(3, 1, 1)


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def apply(name: str, magnitude: float, images: torch.Tensor, fill: torch.Tensor = FILL) -> torch.Tensor:
    return OPERATIONS[name](images, torch.full((len(images),), magnitude), fill)


def test_crops_shift_and_mirror_and_nothing_else() -> None:
    images = torch.arange(2 * 3 * 6 * 6, dtype=torch.float32).reshape(2, 3, 6, 6) + 1
    random = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        augmented = crop_and_mirror(images, Augmentation(crop_padding=1, horizontal_flip=True), random.random((2, 3)))
        assert augmented.shape == images.shape
        seen.add(tuple(augmented[1, 2].flatten().tolist()))
    padded = torch.nn.functional.pad(images[1, 2], (1, 1, 1, 1))
    crops = [padded[top : top + 6, left : left + 6] for top in range(3) for left in range(3)]
    assert seen == {tuple(variant.flatten().tolist()) for crop in crops for variant in (crop, crop.flip(1))}


def test_without_augmentation_the_input_is_what_bundle_preprocessing_gives() -> None:
    chosen = recipe(augmentation={"crop_padding": 0, "horizontal_flip": False})
    pixels = torch.from_numpy(np.array(PICTURE))[None]
    inputs = augment(pixels, chosen.augmentation, chosen.preprocessing, np.zeros((1, 3)))
    expected = torch.from_numpy(normalise(pixels.numpy(), chosen.preprocessing))
    torch.testing.assert_close(inputs, expected, rtol=0, atol=1e-6)


def test_an_image_is_augmented_alike_whatever_batch_it_is_in() -> None:
    chosen = recipe(augmentation={"operations": 2, "magnitude": 0.7})
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8))
    draws = np.random.default_rng(1).random((40, draws_per_image(chosen.augmentation)))
    together = augment(pixels, chosen.augmentation, chosen.preprocessing, draws)
    halves = [
        augment(pixels[part], chosen.augmentation, chosen.preprocessing, draws[part])
        for part in (slice(0, 20), slice(20, 40))
    ]
    torch.testing.assert_close(together, torch.cat(halves), rtol=0, atol=1e-6)
    assert together.isfinite().all()


@pytest.mark.parametrize(
    ("name", "magnitude", "expected", "levels"),
    [
        ("identity", 1, PICTURE, 0),
        ("autocontrast", 1, ImageOps.autocontrast(PICTURE), 1),
        ("equalise", 1, ImageOps.equalize(PICTURE), 0),
        ("posterise", -1, ImageOps.posterize(PICTURE, 4), 0),
        ("posterise", 0.5, ImageOps.posterize(PICTURE, 6), 0),
        ("solarise", 0.6, ImageOps.solarize(PICTURE, 102), 0),
        ("colour", -1, ImageEnhance.Color(PICTURE).enhance(0.1), 1.5),
        ("colour", 0.5, ImageEnhance.Color(PICTURE).enhance(1.45), 1.5),
        ("brightness", 1, ImageEnhance.Brightness(PICTURE).enhance(1.9), 1),
        ("contrast", -0.5, ImageEnhance.Contrast(PICTURE).enhance(0.55), 1.5),
        ("sharpness", 1, ImageEnhance.Sharpness(PICTURE).enhance(1.9), 1.5),
        ("sharpness", -1, ImageEnhance.Sharpness(PICTURE).enhance(0.1), 1.5),
    ],
)
def test_an_operation_is_pillows(name: str, magnitude: float, expected: Image.Image, levels: float) -> None:
    found = apply(name, magnitude, as_tensor(PICTURE))
    torch.testing.assert_close(found, as_tensor(expected), rtol=0, atol=levels / 255 + 1e-6)


@pytest.mark.parametrize(
    ("name", "magnitude", "coefficients"),
    [
        ("shear_x", 1, (1, 0.3, -0.3 * 16, 0, 1, 0)),
        ("shear_y", -0.5, (1, 0, 0, -0.15, 1, 0.15 * 16)),
        ("translate_x", 0.5, (1, 0, 0.45 * 16, 0, 1, 0)),
        ("translate_y", -1, (1, 0, 0, 0, 1, -0.9 * 16)),
    ],
)
def test_an_affine_operation_is_pillows(name: str, magnitude: float, coefficients: tuple[float, ...]) -> None:
    expected = PICTURE.transform(PICTURE.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    found = apply(name, magnitude, as_tensor(PICTURE))
    inner = np.s_[..., 2:-2, 2:-2]  # at its border Pillow repeats pixels where we bring in the colour
    difference = (found - as_tensor(expected)).abs()[inner]
    assert difference.median() < 2 / 255
    assert (difference > 8 / 255).float().mean() < 0.1


def test_rotation_turns_by_up_to_thirty_degrees_and_fills_with_the_colour() -> None:
    fill = torch.tensor([0.1, 0.5, 0.9])[:, None, None]
    turned = apply("rotate", 1, as_tensor(PICTURE), fill)
    expected = as_tensor(PICTURE.rotate(30, Image.Resampling.BILINEAR))
    assert (turned - expected)[..., 10:22, 10:22].abs().max() < 4 / 255
    torch.testing.assert_close(turned[0, :, 0, 0], fill.flatten())
    assert not torch.equal(turned, apply("rotate", -1, as_tensor(PICTURE), fill))


def test_every_operation_is_drawn_and_its_strength_is_as_asked() -> None:
    count = len(OPERATIONS)
    pixels = as_tensor(PICTURE).expand(count, -1, -1, -1)
    draws = np.full((count, DRAWS_PER_OPERATION), 0.9)
    draws[:, 0] = (np.arange(count) + 0.5) / count
    at_four_tenths = randaugment(pixels, 0.4, draws, FILL)
    draws[:, 1] = 0.4
    at_random = randaugment(pixels, "random", draws, FILL)
    assert torch.equal(at_four_tenths, at_random)
    for image, name in zip(at_random, OPERATIONS, strict=True):
        torch.testing.assert_close(image[None], apply(name, 0.4, as_tensor(PICTURE)), rtol=0, atol=1e-6)


def test_operations_are_applied_one_after_the_other() -> None:
    names = list(OPERATIONS)
    draws = np.array([[(names.index(name) + 0.5) / len(names), 0.8, 0.9] for name in ("solarise", "rotate")])
    found = randaugment(as_tensor(PICTURE), "random", draws.reshape(1, -1), FILL)
    torch.testing.assert_close(found, apply("rotate", 0.8, apply("solarise", 0.8, as_tensor(PICTURE))))


def test_mixup_is_the_weighted_sum_of_images_and_labels() -> None:
    inputs, classes = torch.rand(3, 3, 4, 4), torch.tensor([0, 1, 2])
    mixed, wanted = mix(inputs, classes, Mix(0.25, None), 4)
    torch.testing.assert_close(mixed[1], 0.25 * inputs[1] + 0.75 * inputs[0])
    torch.testing.assert_close(wanted[1], torch.tensor([0.75, 0.25, 0, 0]))


def test_cutmix_labels_by_the_area_that_was_really_pasted() -> None:
    inputs = torch.stack([torch.full((3, 8, 8), float(number)) for number in range(2)])
    for share, centre in ((0.75, (0.5, 0.5)), (0.75, (0.0, 1.0)), (1.0, (0.5, 0.5)), (0.0, (0.5, 0.5))):
        mixed, wanted = mix(inputs, torch.tensor([0, 1]), Mix(share, centre), 2)
        pasted = (mixed[0] == 1).float().mean()
        torch.testing.assert_close(wanted[0], torch.stack([1 - pasted, pasted]))
        if centre == (0.5, 0.5):
            assert pasted == 1 - share


@pytest.mark.parametrize(
    ("changes", "ways"),
    [
        ({}, {None}),
        ({"mixup_alpha": 1.0}, {"mixup"}),
        ({"cutmix_alpha": 1.0}, {"cutmix"}),
        ({"mixup_alpha": 1.0, "cutmix_alpha": 1.0, "mix_probability": 0.5}, {None, "mixup", "cutmix"}),
    ],
)
def test_a_batch_is_mixed_as_the_recipe_allows(changes: dict[str, Any], ways: set[str | None]) -> None:
    random = np.random.default_rng(0)
    drawn = [draw_mix(recipe(augmentation=changes).augmentation, random) for _ in range(60)]
    assert {how and ("cutmix" if how.centre else "mixup") for how in drawn} == ways
    assert all(how is None or 0 <= how.share <= 1 for how in drawn)
