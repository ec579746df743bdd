"""What a batch looks like after augmentation."""

from typing import Any

import numpy as np
import pytest
import torch

from aaserve.bundle.preprocessing import normalise
from aaserve.training.datasets.augmentation import DRAWS_PER_IMAGE, augment, crop_and_mirror
from aaserve.training.datasets.mixing import Mix, draw_mix, mix
from aaserve.training.recipe import Augmentation
from tests.helpers import photograph
from tests.training.tiny import recipe

PICTURE = photograph().resize((32, 32))


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


def test_augmentation_of_an_image_does_not_depend_on_its_batch() -> None:
    chosen = recipe(augmentation={"crop_padding": 4, "horizontal_flip": True})
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8))
    draws = np.random.default_rng(1).random((40, DRAWS_PER_IMAGE))
    together = augment(pixels, chosen.augmentation, chosen.preprocessing, draws)
    halves = [
        augment(pixels[part], chosen.augmentation, chosen.preprocessing, draws[part])
        for part in (slice(0, 20), slice(20, 40))
    ]
    torch.testing.assert_close(together, torch.cat(halves), rtol=0, atol=1e-6)
    assert together.isfinite().all()


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
