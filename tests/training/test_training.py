"""python -m training on a CIFAR-100 folder of noise: small, but the whole way."""

import csv
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.progress import Progress
from safetensors.torch import load_file

from bundle.preprocessing import normalise, preprocess
from export.checkpoint import read_checkpoint
from tests.helpers import ROOT, encode, noise
from training.__main__ import main
from training.augment import augment
from training.checkpoint import save_state
from training.cifar import read_labels, read_split
from training.evaluate import accuracy
from training.recipe import Augmentation, Recipe, read_recipe
from training.trainer import train

SHIPPED_RECIPE = ROOT / "training" / "recipes" / "aa_cifar100.toml"


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `cifar-100-python/` folder of 48 + 16 images of noise, in the official form."""
    folder = tmp_path_factory.mktemp("data") / "cifar-100-python"
    folder.mkdir()
    random = np.random.default_rng(0)
    for split, count in (("train", 48), ("test", 16)):
        pixels = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        content = {b"data": pixels, b"fine_labels": random.integers(0, 100, count).tolist()}
        (folder / split).write_bytes(pickle.dumps(content, protocol=4))
    names = {b"fine_label_names": [f"class {i}".encode() for i in range(100)]}
    (folder / "meta").write_bytes(pickle.dumps(names, protocol=4))
    return folder.parent


def recipe(**optimisation: object) -> Recipe:
    shipped = read_recipe(SHIPPED_RECIPE).model_dump()
    shipped["network"] = {"architecture": "aa_wide_resnet10_1"}
    shipped["optimisation"] |= {"epochs": 3, "batch_size": 20, **optimisation}
    return Recipe.model_validate(shipped)


def epochs(output: Path) -> list[dict[str, str]]:
    with (output / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def run(chosen: Recipe, data: Path, output: Path, *, resume: bool = False) -> float:
    with Progress(disable=True) as progress:
        return train(chosen, data, output, resume=resume, progress=progress)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_that_was_stopped_and_resumed_equals_one_that_was_not(
    data: Path, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = recipe(precision=precision)
    run(chosen, data, tmp_path / "whole")

    class Stopped(Exception):
        pass

    def stop_after_the_first_epoch(*arguments: object) -> None:
        save_state(*arguments)
        raise Stopped

    with monkeypatch.context() as stopping:
        stopping.setattr("training.trainer.save_state", stop_after_the_first_epoch)
        with pytest.raises(Stopped):
            run(chosen, data, tmp_path / "parts")
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    run(chosen, data, tmp_path / "parts", resume=True)

    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name
    assert [row["epoch"] for row in epochs(tmp_path / "parts")] == ["1", "2", "3"]


def test_the_weights_carry_what_export_needs(data: Path, tmp_path: Path) -> None:
    top_1 = run(recipe(epochs=1), data, tmp_path)
    metadata = read_checkpoint(tmp_path / "model.safetensors").metadata
    assert metadata["labels"][7] == "class 7"
    assert metadata["test"]["top_1"] == top_1
    assert Recipe.model_validate(metadata["recipe"]) == recipe(epochs=1)


def test_a_run_is_neither_overwritten_nor_resumed_with_another_recipe(data: Path, tmp_path: Path) -> None:
    run(recipe(epochs=1), data, tmp_path)
    with pytest.raises(FileExistsError, match="--resume"):
        run(recipe(epochs=1), data, tmp_path)
    with pytest.raises(ValueError, match="another recipe"):
        run(recipe(epochs=2), data, tmp_path, resume=True)
    with pytest.raises(FileNotFoundError):
        run(recipe(epochs=1), data, tmp_path / "elsewhere", resume=True)


def test_a_loss_that_is_not_finite_stops_the_run(data: Path, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="max_learning_rate"):
        run(recipe(max_learning_rate=1e30), data, tmp_path)


def test_the_network_learns(data: Path, tmp_path: Path) -> None:
    """Noise can be learned by heart: the loss on the training images must fall far below chance."""
    run(recipe(epochs=40, max_learning_rate=0.1, batch_size=16), data, tmp_path)
    losses = [float(row["loss"]) for row in epochs(tmp_path)]
    assert losses[-1] < 0.75 * losses[0]


def test_the_command_reports_errors_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    broken = tmp_path / "recipe.toml"
    broken.write_text(SHIPPED_RECIPE.read_text().replace("epochs = ", "epochz = "))
    for recipe_file, data, message in (
        (SHIPPED_RECIPE, tmp_path, "No such file"),
        (broken, tmp_path, "optimisation.epoch"),
        (tmp_path / "nowhere.toml", tmp_path, "No such file"),
    ):
        assert main([str(recipe_file), "--data", str(data), "--output", str(tmp_path)]) == 1
        stderr = capfd.readouterr().err
        assert stderr.startswith("error: ")
        assert message in stderr
        assert len(stderr.splitlines()) == 1


def test_a_cifar_pickle_cannot_call_anything(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()

    class Evil:
        def __reduce__(self) -> tuple:
            return (print, ("ran",))

    (folder / "meta").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(pickle.UnpicklingError, match="refused"):
        read_labels(tmp_path)


def test_training_sees_the_pixels_that_the_service_sees(data: Path) -> None:
    chosen = read_recipe(SHIPPED_RECIPE).preprocessing
    image = noise(32, 32)
    direct = normalise(np.asarray(image), chosen)
    np.testing.assert_array_equal(direct, preprocess(encode(image, "PNG"), chosen, max_pixels=10**6))
    assert read_split(data, "train").images.shape == (48, 32, 32, 3)


def test_augmentation_shifts_and_mirrors_and_nothing_else() -> None:
    images = torch.arange(2 * 3 * 6 * 6, dtype=torch.float32).reshape(2, 3, 6, 6) + 1
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(300):
        augmented = augment(images, Augmentation(crop_padding=1, horizontal_flip=True), generator)
        assert augmented.shape == images.shape
        seen.add(tuple(augmented[1, 2].flatten().tolist()))
    padded = torch.nn.functional.pad(images[1, 2], (1, 1, 1, 1))
    crops = [padded[top : top + 6, left : left + 6] for top in range(3) for left in range(3)]
    assert seen == {tuple(variant.flatten().tolist()) for crop in crops for variant in (crop, crop.flip(1))}


def test_accuracy_counts_the_label_among_the_top_k() -> None:
    network = torch.nn.Identity()
    logits = torch.tensor([[3.0, 2, 1], [3, 2, 1], [1, 2, 3], [1, 2, 3]])
    labels = torch.tensor([0, 1, 1, 0])
    assert accuracy(network, logits, labels) == 0.25
    assert accuracy(network, logits, labels, top_k=2) == 0.75
