"""python -m training init-recipe: from a folder of pictures, and the weights of a plain network, to a trained one."""

import re
from pathlib import Path

import pytest
import torch

from aaserve.models import create_model
from aaserve.models.attention import AttentionAugmentedConv2d
from aaserve.training import command, init_recipe
from aaserve.training.recipe import read_recipe
from aaserve.training.weights import take
from tests.helpers import encode, noise


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of eight and two pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 8), ("val", 2)):
        for label in ("cat", "dog", "rocket"):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                (folder / split / label / f"{number}.png").write_bytes(encode(noise(40, 50, seed=number), "PNG"))
    return folder


def test_a_recipe_from_a_folder_trains_from_plain_weights_at_separate_rates_and_says_what_is_new(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    plain = create_model("resnet18", image_size=32)  # 1,000 classes; torchvision's names
    torch.save(plain.state_dict(), tmp_path / "resnet18.pth")
    path = tmp_path / "mine.toml"
    given = [path, "--data", pictures, "--network", "aa_resnet18", "--image-size", "32"]
    assert (
        init_recipe.main([str(one) for one in (*given, "--initial-weights", tmp_path / "resnet18.pth")], "init-recipe")
        == 0
    )
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "train/: 24 pictures of 3 classes, 8 of each"
    assert told[-1] == f"python -m training {path} --data {pictures}"
    recipe = read_recipe(path)
    assert recipe.network.architecture == "aa_resnet18"
    assert (recipe.optimisation.batch_size, recipe.preprocessing.resize, recipe.preprocessing.crop) == (6, 37, (32, 32))
    assert recipe.optimisation.learning["*"] < recipe.optimisation.learning["*.qkv.*"]

    path.write_text(path.read_text().replace("epochs = 30", "epochs = 1"))
    assert command.main([str(path), "--data", str(pictures), "--output", str(tmp_path / "run")]) == 0
    log = capsys.readouterr().err
    assert (
        "initial weights: 94 tensors taken; attention is new beside the filters kept in layer2.0.conv1 (96 of 128)"
        in log
    )
    assert "the head is new, since theirs is for 1000 classes" in log
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_an_augmented_resnet_keeps_the_filters_of_the_plain_one() -> None:
    plain = create_model("resnet18", image_size=32)
    augmented = create_model("aa_resnet18", image_size=32, num_classes=3)
    head = augmented.fc.weight.clone()
    taken = take(augmented, plain.state_dict(), "resnet18.pth")
    layers = {n: m for n, m in augmented.named_modules() if isinstance(m, AttentionAugmentedConv2d)}
    assert taken.augmented.keys() == layers.keys() == {f"layer{s}.{b}.conv1" for s in (2, 3, 4) for b in (0, 1)}
    assert taken.other_classes == 1000
    assert torch.equal(augmented.fc.weight, head)
    ours, theirs = augmented.state_dict(), plain.state_dict()
    for name, layer in layers.items():
        kept = len(layer.conv.weight)
        assert torch.equal(layer.conv.weight, theirs.pop(f"{name}.weight")[:kept])
    for name in theirs.keys() - {"fc.weight", "fc.bias"}:
        assert name.endswith("num_batches_tracked") or torch.equal(ours[name], theirs[name])


def test_every_field_of_the_recipe_for_folders_is_there_and_explained(tmp_path: Path) -> None:
    text = init_recipe.TEMPLATE.read_text()
    lines = [line for line in text.split("\n[", 1)[1].splitlines() if " = " in line]
    assert all(" # " in line.removeprefix("# ") for line in lines if not line.startswith("std"))
    given = {line.removeprefix("# ").partition(" = ")[0] for line in lines}
    recipe = read_recipe(init_recipe.TEMPLATE)
    sections = (recipe.network, recipe.optimisation, recipe.augmentation, recipe.preprocessing)
    assert given == {field for section in sections for field in type(section).model_fields}
    all_on = tmp_path / "all_on.toml"
    all_on.write_text(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE))
    assert read_recipe(all_on).network.initial_weights == "resnet18.safetensors"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--network", "resnet19"], "no network named 'resnet19'; did you mean resnet18"),
        (["--image-size", "8"], "image_size must be at least 32 x 32"),
    ],
    ids=["network", "size"],
)
def test_what_makes_no_recipe_is_refused_and_nothing_is_written(
    given: list[str], message: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "mine.toml"
    assert init_recipe.main([str(path), "--data", str(pictures), *given], "init-recipe") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not path.exists()


def test_a_file_that_exists_stays(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("mine")
    assert init_recipe.main([str(path), "--data", str(pictures)], "init-recipe") == 1
    assert capsys.readouterr().err == f"error: {path} exists; choose another name\n"
    assert path.read_text() == "mine"
