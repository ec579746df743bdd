"""The data set that most tests train on, and a teacher with its pictures."""

from pathlib import Path

import pytest
import torch

from aaserve.models import create_model
from tests.training.classification.distilling import CLASSES, saved, write
from tests.training.tiny import write_cifar_100


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cifar_100(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    network = create_model("wide_resnet10_1", num_classes=CLASSES, image_size=32)
    with torch.no_grad():
        network(torch.randn(64, 3, 32, 32))  # statistics of batch normalisation
    return saved(network, tmp_path_factory.mktemp("teacher") / "teacher.safetensors")


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise: 40 pictures without labels, and two sources with labels."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(40):
        write(folder / "train" / "mine" / f"picture {number}.png", number)
    for source in ("one", "other"):
        for number in range(6):
            write(folder / "held_out" / source / f"{number % CLASSES:04}_{number}.png", number)
    (folder / "classes.txt").write_text("\n".join(f"class {number}" for number in range(CLASSES)) + "\n")
    return folder
