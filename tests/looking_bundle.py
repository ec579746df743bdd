"""A bundle with known attention: head 0 looks one cell to the right, head 1 at red cells.

Blue has to be 255 everywhere: it is the constant that makes the queries.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from aaserve.bundle.bundle import MANIFEST_FILE, MODEL_FILE, REFERENCES_FILE, sha256_of, write_bundle
from aaserve.bundle.manifest import Manifest
from aaserve.bundle.preprocessing import Preprocessing
from aaserve.export.graph.attention_outputs import output_name
from aaserve.export.graph.convert import convert
from aaserve.export.graph.normalisation import PixelInput
from aaserve.models.attention import AttentionAugmentedConv2d
from tests.helpers import REPOSITORY, encode
from tests.traces import Traces

GRID = ROWS, COLUMNS = 4, 6
LAYER = "looking"
RIGHT, RED = 0, 1  # the heads
_SURE = 100.0  # a logit above all others


class Looking(nn.Module):
    """One attention layer of two heads over a picture of 4x6 pixels; its logits say nothing."""

    def __init__(self) -> None:
        super().__init__()
        layer = AttentionAugmentedConv2d(
            3, 4, 1, key_channels=4, value_channels=4, num_heads=2, feature_size=GRID
        )  # no convolution beside it; two channels for each head
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.zero_()
            queries, keys, _ = layer.qkv.weight[:, :, 0, 0].split(4)  # (heads * 2, red green blue)
            queries[0, 2] = queries[3, 2] = _SURE  # head 0: (blue, 0), head 1: (0, blue)
            keys[3, 0] = 1  # head 1: (0, red)
            layer.key_rel_w[COLUMNS - 1 + 1, 0] = 1  # one column to the right, of the first channel alone
            layer.key_rel_h[ROWS - 1, 0] = 1  # in the same row
        self.add_module(LAYER, layer)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, 4, 6) to logits (B, 4)."""
        return self.get_submodule(LAYER)(x).mean(dim=(2, 3))


def looking_picture(*red: tuple[int, int]) -> bytes:
    """A PNG, blue with red in these cells (row, column)."""
    pixels = np.zeros((*GRID, 3), np.uint8)
    pixels[..., 2] = 255
    for row, column in red:
        pixels[row, column, 0] = 255
    return encode(Image.fromarray(pixels), "PNG")


@cache
def _graph(form: str) -> bytes:
    network = Looking().eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", Traces().export)
        return _converted(network, form)


def _converted(network: nn.Module, form: str) -> bytes:
    layers = {LAYER: network.get_submodule(LAYER)}
    if form == "float32":
        return convert(network, torch.zeros(2, 3, *GRID), {}, layers)
    preprocessing = Preprocessing.model_validate(_manifest()["preprocessing"])
    return convert(PixelInput(network, preprocessing).eval(), torch.zeros(2, *GRID, 3, dtype=torch.uint8), {}, layers)


def _manifest() -> dict[str, Any]:
    """The shipped model's, with the preprocessing of this one."""
    document = json.loads((REPOSITORY / "aa-cifar100" / "1" / MANIFEST_FILE).read_text())
    document["preprocessing"] |= {"resize": GRID, "crop": GRID, "interpolation": "nearest"}
    document["preprocessing"] |= {"mean": [0, 0, 0], "std": [1, 1, 1]}
    return document


def write_looking_bundle(repository: Path, *, form: str = "uint8") -> Path:
    """looking/1 in `repository`, with its map as an output; replaces an old one."""
    document = _manifest()
    shape, layout = ([*GRID, 3], "NHWC") if form == "uint8" else ([3, *GRID], "NCHW")
    files = {MODEL_FILE: _graph(form), REFERENCES_FILE: b"[]"}
    maps = {"layer": LAYER, "output": output_name(LAYER), "dtype": "float32", "num_heads": 2, "grid": GRID}
    document |= {
        "name": LAYER,
        "version": "1",
        "input": {"name": "image", "dtype": form, "layout": layout, "shape": shape},
        "output": {"name": "logits", "dtype": "float32", "shape": [4]},
        "attention": [maps],
        "labels": ["a", "b", "c", "d"],
        "files": {name: sha256_of(content) for name, content in files.items()},
        "accuracy": None,
    }
    return write_bundle(repository, Manifest.model_validate_json(json.dumps(document)), files, replace=True)
