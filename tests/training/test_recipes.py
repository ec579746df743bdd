"""The recipes that ship."""

import tomllib
from pathlib import Path

import pytest
import torch

from aaserve.models import create_model
from aaserve.training.recipe import read_recipe
from tests.helpers import ROOT

RECIPES = sorted((ROOT / "training" / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_and_says_how_it_is_run_and_what_came_out(path) -> None:
    recipe = read_recipe(path)
    with torch.device("meta"):
        create_model(recipe.network.architecture, image_size=recipe.preprocessing.crop, **recipe.network.options)
    header = path.read_text().split("\n[")[0]
    assert f"training/recipes/{path.name}" in header
    assert any(words in header for words in ("% top-1 and", " %, AP50 ", "Unproven: ", "Not run yet"))


def test_the_papers_network_and_its_baseline_differ_in_the_network_alone() -> None:
    augmented, plain = (
        tomllib.loads((ROOT / "training" / "recipes" / f"{name}_cifar100.toml").read_text())
        for name in ("aa_wide_resnet28_10", "wide_resnet28_10")
    )
    assert (augmented.pop("network"), plain.pop("network")) == (
        {"architecture": "aa_wide_resnet28_10"},
        {"architecture": "wide_resnet28_10"},
    )
    assert augmented == plain


def test_every_missing_field_and_every_other_problem_is_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("""
[network]
[optimisation]
epochz = 3
batch_size = 0
max_learning_rate = 0.1
label_smoothing = 0.1
[augmentation]
horizontal_flip = true
""")
    with pytest.raises(ValueError, match=r"mine\.toml: ") as caught:
        read_recipe(path)
    assert str(caught.value) == (
        f"{path}: optimisation.epochz: no such field; did you mean epochs?; "
        "missing: network.architecture, optimisation.epochs, optimisation.warm_up_fraction, optimisation.momentum, "
        "optimisation.weight_decay, optimisation.precision, optimisation.seed, augmentation.crop_padding, "
        "preprocessing.colour, preprocessing.background, preprocessing.exif_orientation, "
        "preprocessing.interpolation, preprocessing.crop, preprocessing.mean, preprocessing.std; "
        "optimisation.batch_size: Input should be greater than or equal to 1"
    )
    path.write_text("")
    with pytest.raises(ValueError, match=r"mine\.toml: missing: network\.architecture, .*preprocessing\.std$"):
        read_recipe(path)
