"""--arch package.module:function, as a user types it: their own network, with an augmented block of their own."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from aaserve.bundle.bundle import open_bundle
from aaserve.bundle.preprocessing import preprocess, read_pixels
from aaserve.export import verify
from aaserve.export.command import main
from aaserve.export.graph.runtime import Graph
from tests.helpers import EXAMPLES

LABELS = ["ant", "bee", "cat", "dog", "eel"]
MODULE = """
import torch
from torch import nn
from aaserve.models.attention import AttentionAugmentedConv2d


class Block(nn.Module):
    def __init__(self, channels, side):
        super().__init__()
        self.conv = AttentionAugmentedConv2d(
            channels, channels, 3, key_channels=8, value_channels=8, num_heads=2, feature_size=(side, side)
        )
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return torch.relu(x + self.norm(self.conv(x)))


class Small(nn.Module):
    def __init__(self, num_classes, side, scale=1.0):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.block = Block(16, side // 2)
        self.hidden = nn.Linear(16, 16)
        self.norm = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, num_classes)
        self.scale = scale

    def forward(self, x):
        x = self.block(torch.relu(self.stem(x))).mean((2, 3))
        return self.scale * self.head(self.hidden(self.norm(x)))


class OnlyFloat32(Small):
    def forward(self, x):
        return super().forward(x.float())


class Pair(Small):
    def forward(self, x):
        return super().forward(x), x


class Features(Small):
    def forward(self, x):
        return self.stem(x)


class FixedBatch(Small):
    def forward(self, x):
        return super().forward(x).reshape(len(x), -1)


def build(num_classes, side=16, text="none"):
    return Small(num_classes, side)


def raises(**options):
    raise KeyError("no such backbone")


def exits(**options):
    raise SystemExit(2)


def returns_weights(num_classes):
    return Small(num_classes, 16).state_dict()


number = 5
"""
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the module `my_networks`, a checkpoint and labels."""
    (tmp_path / "my_networks.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("import no_such_library\n")
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.path.insert(0, str(tmp_path))
    torch.manual_seed(0)
    network = __import__("my_networks").Small(len(LABELS), 16)
    with torch.no_grad():
        network(torch.randn(8, 3, 16, 16))
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    sys.path.pop(0)
    del sys.modules["my_networks"]
    yield tmp_path
    for name in {"my_networks", "broken"} & set(sys.modules):
        del sys.modules[name]


@pytest.fixture
def run(folder: Path, capfd: pytest.CaptureFixture) -> Run:
    def export(*options: str) -> tuple[int, str]:
        fixed = ["--labels", "labels.txt", "--resize", "16", "--crop", "16", "--interpolation", "bilinear"]
        fixed += ["--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25", "--background", "0,0,0", "--exif-orientation"]
        fixed += ["--name", "mine", "--version", "1", "--repository", "repository", "--max-batch-size", "3"]
        status = main(["mine.safetensors", *fixed, "--parity-images", str(EXAMPLES), *options])
        return status, capfd.readouterr().err

    return export


def own(name: str, *options: str) -> list[str]:
    return ["--arch", f"my_networks:{name}", *(word for option in options for word in ("--arch-option", option))]


def test_a_network_of_ones_own_with_an_augmented_block_becomes_a_bundle(folder: Path, run: Run) -> None:
    status, said = run(*own("build", "num_classes=5", "side=16", "text=some words"), "--with-attention")
    assert status == 0, said
    opened = open_bundle(folder / "repository" / "mine" / "1")
    assert opened.manifest.architecture == "my_networks:build"
    assert [attention.layer for attention in opened.manifest.attention] == ["block.conv"]
    assert "num_classes=5" in opened.manifest.provenance.command
    assert opened.manifest.parity.max_difference < 1e-5
    network = sys.modules["my_networks"].Small(5, 16)
    network.load_state_dict(load_file(folder / "mine.safetensors"))
    inputs = preprocess((EXAMPLES / "cat.jpg").read_bytes(), opened.manifest.preprocessing, max_pixels=10**6)
    expected = network.eval()(torch.from_numpy(inputs[None])).detach().numpy()
    pixels = read_pixels((EXAMPLES / "cat.jpg").read_bytes(), opened.manifest.preprocessing, max_pixels=10**6)
    graph = Graph(opened.model_path.read_bytes(), opened.manifest.preprocessing)
    np.testing.assert_allclose(graph(pixels[None]), expected, atol=1e-5)
    assert (
        verify.main([str(opened.folder)]) == 0
    )  # finds the pictures by itself: the command in the manifest names them


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_it_is_lowered_like_one_of_ours(precision: str, folder: Path, run: Run) -> None:
    calibration = () if precision == "fp16" else ("--calibration", str(EXAMPLES))
    options = ("--precision", precision, *calibration, "--allow-drop", "100")
    status, said = run(*own("build", "num_classes=5"), *options)
    assert status == 0, said
    assert open_bundle(folder / "repository" / "mine" / "1").manifest.precision == precision


def test_a_network_that_asks_for_float32_is_compared_in_float32_and_says_so(folder: Path, run: Run) -> None:
    status, said = run(*own("OnlyFloat32", "num_classes=5", "side=16"))
    assert status == 0, said
    assert "warning: the network does not compute in float64 (" in said


REFUSED = {
    "no module": (["--arch", "no_such_module:build"], "raised ModuleNotFoundError: No module named 'no_such_module'"),
    "a module that needs another": (["--arch", "broken:build"], "No module named 'no_such_library'"),
    "no function": (own("biuld"), "expected biuld in my_networks, found none; like it are build"),
    "no name": (["--arch", "my_networks:"], "expected package.module:function"),
    "no function but a number": (own("number"), "expected a function that returns a network, found an int"),
    "an argument that is missing": (own("build"), "missing a required argument: 'num_classes'; give its arguments"),
    "an argument too many": (own("build", "num_classes=5", "depth=3"), "unexpected keyword argument 'depth'"),
    "raises": (own("raises"), "my_networks:raises raised KeyError: 'no such backbone'"),
    "exits": (own("exits"), "my_networks:exits raised SystemExit: 2"),
    "no network": (
        own("returns_weights", "num_classes=5"),
        "expected it to return a torch.nn.Module, found an Ordered",
    ),
    "another head": (own("build", "num_classes=6"), "head.weight (expected (6, 16), found (5, 16))"),
    "another number": (
        [*own("build", "num_classes=5"), "--num-classes", "6"],
        "expected a head of 6 classes (--num-classes), found 5",
    ),
    "two outputs": (
        own("Pair", "num_classes=5", "side=16"),
        "expected the network to return logits (2, 5), found a tuple",
    ),
    "a batch made a number": (own("FixedBatch", "num_classes=5", "side=16"), "traces a batch fixed to 2"),
    "a feature map": (
        own("Features", "num_classes=5", "side=16"),
        "return logits (2, 5), found torch.float32 (2, 16, 8, 8)",
    ),
    "another size": (own("build", "num_classes=5", "side=32"), "block.conv.key_rel_h (expected (31"),
    "an option that ours do not have": (["--arch", "resnet50", "--arch-option", "depth=3"], "make no resnet50"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_a_function_that_makes_no_fitting_network_is_refused_in_a_line(
    options: list[str], message: str, folder: Path, run: Run
) -> None:
    status, said = run(*options)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert status == 1, said
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in said
    assert not (folder / "repository").exists()


def test_a_checkpoint_cannot_name_code_that_runs(folder: Path, run: Run) -> None:
    recorded = {"recipe": {"network": {"architecture": "my_networks:build", "options": {"num_classes": 5}}}}
    save_file(
        load_file(folder / "mine.safetensors"), folder / "mine.safetensors", metadata={"aaserve": json.dumps(recorded)}
    )
    status, said = run()
    assert status == 1
    assert "mine.safetensors: names my_networks:build, which is code; give it as --arch" in said


def test_labels_that_are_not_of_this_network_are_counted(folder: Path, run: Run) -> None:
    (folder / "labels.txt").write_text("\n".join(LABELS[:4]))
    status, said = run(*own("build", "num_classes=5"))
    assert status == 1
    assert "expected a head of 4 classes (labels), found 5" in said
