"""Export a checkpoint of a small network, as a user types it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from aaserve.models import create_model

Export = Callable[..., "Finished"]
LABELS = ["ant", "bee", "cat", "dog", "eel"]

PREPROCESSING = """
[preprocessing]
colour = "RGB"
background = [255, 255, 255]
exif_orientation = true
resize = 18
interpolation = "bilinear"
crop = [16, 16]
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
"""


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    made = create_model("aa_wide_resnet10_1", num_classes=len(LABELS), image_size=(16, 16))
    with torch.no_grad():
        made(torch.randn(8, 3, 16, 16))  # gives the normalisations other statistics than zero and one
    return made.eval()


@dataclass
class Finished:
    """What a command printed, and how it ended."""

    status: int
    stdout: str
    stderr: str


def arguments(checkpoint: Path, *options: str, version: str = "1") -> list[str]:
    folder = checkpoint.parent
    given = {
        "--arch": "aa_wide_resnet10_1",
        "--labels": str(folder / "labels.txt"),
        "--preprocessing": str(folder / "preprocessing.toml"),
        "--name": "small",
        "--version": version,
        "--repository": str(folder / "repository"),
        "--max-batch-size": "5",
    }
    given |= dict(zip(options[::2], options[1::2], strict=True))
    return [word for option in given.items() for word in option]


def assert_refused(finished: Finished, checkpoint: Path, message: str) -> None:
    errors = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert finished.status == 1, finished.stderr
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in finished.stderr
    assert list((checkpoint.parent / "repository").glob("*/*")) == []
