"""A bundle whose graph really fails: the red of the first pixel is an index into a table that ends early."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from aaserve.bundle.bundle import MANIFEST_FILE, MODEL_FILE, REFERENCES_FILE, sha256_of, write_bundle
from aaserve.bundle.manifest import Manifest
from tests.helpers import REPOSITORY, encode

SIDE, CLASSES = 8, 4
NOT_A_NUMBER = 150  # a red of this gives NaN for that picture alone
HANGS = 151  # with a red of this in the batch, the call practically never returns
OUT_OF_RANGE = 200  # from here on the graph fails, and with it every batch that the picture is in
LABELS = tuple("abcd")
Fault = Literal["crashes", "hangs"]


def write_fragile_bundle(
    repository: Path,
    *,
    name: str = "fragile",
    version: str = "1",
    labels: tuple[str, ...] = LABELS,
    ballast_bytes: int = 0,
    fault: Fault | None = None,
    side: int = SIDE,
) -> Path:
    """NAME/VERSION in `repository`: logits are a row of a table, by the red of the first pixel. Replaces an old one.

    With ballast, the table has as many bytes more, so that loading it needs memory. With a fault, ONNX Runtime takes
    the process along while it opens the graph, or never finishes a call.
    """
    model = _graph(ballast_bytes, side, fault).SerializeToString()
    files = {MODEL_FILE: model, REFERENCES_FILE: b"[]"}
    manifest = json.loads((REPOSITORY / "aa-cifar100" / "1" / MANIFEST_FILE).read_text())
    manifest |= {
        "name": name,
        "version": version,
        "input": {"name": "pixels", "dtype": "uint8", "layout": "NHWC", "shape": [side, side, 3]},
        "output": {"name": "logits", "dtype": "float32", "shape": [CLASSES]},
        "attention": [],
        "parity": manifest["parity"] | {"attention_difference": None, "attention_tolerance": None},
        "labels": labels,
        "preprocessing": manifest["preprocessing"] | {"resize": side, "crop": [side, side]},
        "files": {name: sha256_of(content) for name, content in files.items()},
        "accuracy": None,
    }
    return write_bundle(repository, Manifest.model_validate_json(json.dumps(manifest)), files, replace=True)


def picture(red: int, side: int = SIDE) -> bytes:
    """A PNG of one colour; one with a `side` of more than 64 is not decoded in the event loop."""
    return encode(Image.new("RGB", (side, side), (red, 0, 0)), "PNG")


def label_of(red: int) -> str:
    """What the network says of `picture(red)`."""
    return LABELS[red % CLASSES]


def _graph(ballast_bytes: int, side: int, fault: Fault | None) -> onnx.ModelProto:
    table = np.zeros((OUT_OF_RANGE + ballast_bytes // CLASSES // 4, CLASSES), np.float32)
    table[np.arange(OUT_OF_RANGE), np.arange(OUT_OF_RANGE) % CLASSES] = 5
    table[NOT_A_NUMBER] = np.nan
    constants = {
        "table": table,
        "pixel": np.array(0),
        "red": np.array(0),
        "row": np.array(0),
        "hangs": np.array(HANGS),
        "forever": np.array(2**62),
        "nothing": np.array(0, np.float32),
        "lowest": np.array(-(2**63)),
        "minus_one": np.array(-1),
    }
    nodes = [
        helper.make_node("Gather", ["pixels", "row"], ["top"], axis=1),  # (B, W, 3)
        helper.make_node("Gather", ["top", "pixel"], ["corner"], axis=1),  # (B, 3)
        helper.make_node("Gather", ["corner", "red"], ["reds"], axis=1),  # (B,)
        helper.make_node("Cast", ["reds"], ["index"], to=TensorProto.INT64),
        helper.make_node("Equal", ["index", "hangs"], ["hanging"]),
        helper.make_node("Cast", ["hanging"], ["is_hanging"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["is_hanging"], ["any_hanging"], keepdims=0),
        helper.make_node("Mul", ["any_hanging", "forever"], ["times"]),
        helper.make_node(
            "Loop", ["forever" if fault == "hangs" else "times", "", "nothing"], ["zero"], body=_squaring()
        ),
        # What no 64 bits hold: the processor refuses to compute it (x86: SIGFPE), and nothing asks before.
        helper.make_node("Div", ["lowest", "minus_one"], ["overflow"]) if fault == "crashes" else None,
        helper.make_node("Add", ["index", "overflow"], ["entry"]) if fault == "crashes" else None,
        helper.make_node(
            "Gather", ["table", "entry" if fault == "crashes" else "index"], ["found"], axis=0
        ),  # (B, classes)
        helper.make_node("Add", ["found", "zero"], ["logits"]),
    ]
    graph = helper.make_graph(
        list(filter(None, nodes)),
        "fragile",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", side, side, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _squaring() -> onnx.GraphProto:
    """The body of the loop: a number becomes its square."""
    nodes = [
        helper.make_node("Identity", ["goes_on"], ["still_goes_on"]),
        helper.make_node("Mul", ["number", "number"], ["square"]),
    ]
    inputs = [("turn", TensorProto.INT64), ("goes_on", TensorProto.BOOL), ("number", TensorProto.FLOAT)]
    outputs = [("still_goes_on", TensorProto.BOOL), ("square", TensorProto.FLOAT)]
    return helper.make_graph(
        nodes,
        "squaring",
        *([helper.make_tensor_value_info(name, kind, []) for name, kind in values] for values in (inputs, outputs)),
    )
