"""Train a small network and export it, as a user types it."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from aaserve.export.command import main
from aaserve.models import create_model
from tests.helpers import EXAMPLES

LABELS = ("ant", "bee", "cat")
SIZE = 16


def train(folder: Path) -> Path:
    """Write the weights of a network that tells three colours apart, and labelled pictures of them."""
    rng = np.random.default_rng(0)
    pixels = np.zeros((30, SIZE, SIZE, 3), np.uint8)
    for index in range(len(pixels)):
        pixels[index] = rng.integers(0, 150, (SIZE, SIZE, 3))
        pixels[index, ..., index % 3] += 100
        path = folder / "pictures" / LABELS[index % 3] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[index]).save(path)
    torch.manual_seed(0)
    network = create_model("aa_wide_resnet10_1", num_classes=3, image_size=SIZE)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1  # (30, 3, H, W)
    target = torch.arange(30) % 3
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), target).backward()
        optimizer.step()
    assert (network.eval()(x).argmax(1) == target).float().mean() > 0.9
    save_file(network.state_dict(), folder / "weights.safetensors")
    (folder / "labels.txt").write_text("\n".join(LABELS))
    return folder


def export(trained: Path, repository: Path, *options: str, version: str = "1") -> int:
    return main(
        [
            *(str(trained / "weights.safetensors"), "--arch", "aa_wide_resnet10_1"),
            *("--labels", str(trained / "labels.txt"), "--name", "small", "--version", version),
            *("--resize", str(SIZE), "--crop", str(SIZE), "--interpolation", "nearest", "--mean", "0.5,0.5,0.5"),
            *("--std", "0.5,0.5,0.5", "--background", "0,0,0", "--exif-orientation", "--max-batch-size", "3"),
            *("--parity-images", str(EXAMPLES), "--repository", str(repository), *options),
        ]
    )
