"""A complete training run of a second or two."""

import csv
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from safetensors.torch import load_file

from aaserve.training.classification.evaluate import Score
from aaserve.training.loop.stop import Stop
from aaserve.training.loop.trainer import train
from aaserve.training.machine import Machine
from aaserve.training.recipe import Recipe, read_recipe
from tests.helpers import ROOT

SHIPPED_RECIPE = ROOT / "training" / "recipes" / "aa_cifar100.toml"
CPU = Machine(torch.device("cpu"))


def write_cifar_100(folder: Path, training: int = 48, test: int = 16) -> Path:
    """A `cifar-100-python/` of noise in the official form; returns `folder`."""
    inner = folder / "cifar-100-python"
    inner.mkdir(parents=True)
    random = np.random.default_rng(0)
    for split, count in (("train", training), ("test", test)):
        pixels = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        content = {b"data": pixels, b"fine_labels": random.integers(0, 100, count).tolist()}
        (inner / split).write_bytes(pickle.dumps(content, protocol=4))
    names = {b"fine_label_names": [f"class {i}".encode() for i in range(100)]}
    (inner / "meta").write_bytes(pickle.dumps(names, protocol=4))
    return folder


def recipe(
    architecture: str = "wide_resnet10_1",
    *,
    options: dict[str, Any] | None = None,
    augmentation: dict[str, Any] | None = None,
    preprocessing: dict[str, Any] | None = None,
    **optimisation: Any,
) -> Recipe:
    """Three epochs of three steps; the arguments replace fields."""
    content = read_recipe(SHIPPED_RECIPE).model_dump()
    content["network"] = {"architecture": architecture, "options": options or {}}
    content["optimisation"] |= {"epochs": 3, "batch_size": 16, "precision": "fp32", **optimisation}
    content["augmentation"] |= augmentation or {}
    content["preprocessing"] |= preprocessing or {}
    return Recipe.model_validate(content)


def run(chosen: Recipe, data: Path, output: Path, *, stop: Stop | None = None, **options: Any) -> Score | int:
    with Progress(disable=True) as progress:
        return train(chosen, data, output, machine=CPU, stop=stop or Stop(), progress=progress, **options)


class StopAfter(Stop):
    """SIGTERM, as it were, after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    @property
    def status(self) -> int:
        self._left -= 1
        return 0 if self._left else 143


def epochs(output: Path) -> list[dict[str, str]]:
    with (output / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_weights(one: Path, other: Path, **tolerance: float) -> None:
    """Bit-equal, or within a tolerance."""
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], **(tolerance or {"rtol": 0, "atol": 0}), msg=name)
