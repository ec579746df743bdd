"""A detection bundle with known answers: it finds the red, the green and the blue area of a picture.

Of each colour it answers the box around all pixels that have more than LEAST of it; the score is the brightest one.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from aaserve.bundle.bundle import MANIFEST_FILE, MODEL_FILE, REFERENCES_FILE, sha256_of, write_bundle
from aaserve.bundle.manifest import Manifest
from aaserve.bundle.references.pictures import stored_pictures
from aaserve.bundle.references.probe import PROBE, probe_pixels
from aaserve.bundle.references.references import Reference, StoredDetections, references_json
from tests.helpers import REPOSITORY, encode

NAME = "colours"
LABELS = ("red", "green", "blue")
SIZE = (48, 64)  # (height, width) of the input
LEAST = 50
OUTPUTS = [
    {"name": "boxes", "dtype": "float32", "shape": [3, 4]},
    {"name": "scores", "dtype": "float32", "shape": [3]},
    {"name": "classes", "dtype": "int64", "shape": [3]},
    {"name": "count", "dtype": "int64", "shape": []},
]


def write_detector(
    repository: Path,
    *,
    name: str = NAME,
    version: str = "1",
    fit: str = "letterbox",
    size: tuple[int, int] = SIZE,
    pictures: Sequence[np.ndarray] = (),
    **changes: Any,
) -> Path:
    """NAME/VERSION in `repository`. Replaces an old one.

    Args:
        pictures: (H, W, 3), which the bundle keeps as its reference pictures.
        changes: of the manifest.
    """
    probe = probe_pixels(size)  # noise: the brightest of each colour is 255, and all of the picture has some
    whole = (0.0, 0.0, float(size[1]), float(size[0]))
    detections = StoredDetections(boxes=(whole,) * 3, scores=(1.0,) * 3, classes=(0, 1, 2))
    references = (Reference(picture=PROBE, sha256=sha256_of(probe.tobytes()), detections=detections),)
    files = {
        MODEL_FILE: _graph(size).SerializeToString(),
        REFERENCES_FILE: references_json(references),
        **stored_pictures(pictures),
    }
    shipped = json.loads((REPOSITORY / "aa-cifar100" / "1" / MANIFEST_FILE).read_text())
    preprocessing = {key: value for key, value in shipped["preprocessing"].items() if key != "resize"}
    manifest = {key: value for key, value in shipped.items() if key not in ("output", "attention")} | {
        "name": name,
        "version": version,
        "task": "detection",
        "architecture": "colours",
        "input": {"name": "image", "dtype": "uint8", "layout": "NHWC", "shape": [*size, 3]},
        "outputs": OUTPUTS,
        "suppression": {"score_threshold": 0.2, "iou_threshold": 0.5},
        "preprocessing": preprocessing
        | {"fit": fit, "crop": size, "background": [0, 0, 0], "interpolation": "bilinear"},
        "labels": LABELS,
        "files": {name: sha256_of(content) for name, content in files.items()},
        "parity": {
            "images": 1,
            "batch_sizes": [1],
            "detections": 3,
            "max_difference": 0,
            "tolerance": 1e-4,
            "least_iou": 1,
            "iou_tolerance": 0.99,
        },
        "accuracy": {"dataset": "colours", "images": 4, "ap": 0.5, "ap_50": 0.9, "ap_75": 0.6, "measured": "by eye"},
        **changes,
    }
    return write_bundle(repository, Manifest.model_validate_json(json.dumps(manifest)), files, replace=True)


def coloured(width: int, height: int, **areas: tuple[tuple[int, int, int, int], int]) -> Image.Image:
    """A black picture with areas of a colour: `red=((left, top, right, bottom), brightness)`."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for colour, ((left, top, right, bottom), brightness) in areas.items():
        pixels[top:bottom, left:right, LABELS.index(colour)] = brightness
    return Image.fromarray(pixels)


def coloured_png(width: int, height: int, **areas: tuple[tuple[int, int, int, int], int]) -> bytes:
    """The same as a file."""
    return encode(coloured(width, height, **areas), "PNG")


def _graph(size: tuple[int, int]) -> onnx.ModelProto:
    """(B, H, W, 3) --> the outputs of a detector."""
    height, width = size
    constants = {
        "least": np.array(LEAST, np.float32),
        "most": np.array(255, np.float32),
        "three": np.array([3]),
        "last": np.array([-1]),
        "one": np.array([1]),
        "two": np.array([2]),
        "one_two": np.array([1, 2]),
        "height": np.array(height, np.float32),
        "width": np.array(width, np.float32),
        "down": np.arange(1, height + 1, dtype=np.float32)[:, None],  # (H, 1): where a row ends
        "up": np.arange(height, 0, -1, dtype=np.float32)[:, None],  # and how far it begins from the bottom
        "right_of": np.arange(1, width + 1, dtype=np.float32)[:, None],
        "left_of": np.arange(width, 0, -1, dtype=np.float32)[:, None],
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),  # (B, H, W, 3)
        node("Greater", ["numbers", "least"], ["is_lit"]),
        node("Cast", ["is_lit"], ["lit"], to=TensorProto.FLOAT),
        node("ReduceMax", ["lit", "two"], ["rows"], keepdims=0),  # (B, H, 3)
        node("ReduceMax", ["lit", "one"], ["columns"], keepdims=0),  # (B, W, 3)
        node("ReduceMax", ["rows", "one"], ["any"], keepdims=0),  # (B, 3)
        node("Mul", ["rows", "down"], ["ends_down"]),
        node("ReduceMax", ["ends_down", "one"], ["bottom"], keepdims=0),
        node("Mul", ["rows", "up"], ["ends_up"]),
        node("ReduceMax", ["ends_up", "one"], ["above_bottom"], keepdims=0),
        node("Sub", ["height", "above_bottom"], ["top"]),
        node("Mul", ["columns", "right_of"], ["ends_right"]),
        node("ReduceMax", ["ends_right", "one"], ["right"], keepdims=0),
        node("Mul", ["columns", "left_of"], ["ends_left"]),
        node("ReduceMax", ["ends_left", "one"], ["before_right"], keepdims=0),
        node("Sub", ["width", "before_right"], ["left"]),
        *(
            node("Unsqueeze", [side, "last"], [f"{side}_column"])  # (B, 3, 1)
            for side in ("left", "top", "right", "bottom", "any")
        ),
        node("Concat", [f"{side}_column" for side in ("left", "top", "right", "bottom")], ["sides"], axis=2),
        node("Mul", ["sides", "any_column"], ["all_boxes"]),  # (B, 3, 4)
        node("ReduceMax", ["numbers", "one_two"], ["brightest"], keepdims=0),  # (B, 3)
        node("Div", ["brightest", "most"], ["brightness"]),
        node("Mul", ["brightness", "any"], ["all_scores"]),
        node("TopK", ["all_scores", "three"], ["scores", "order"]),  # (B, 3)
        node("Unsqueeze", ["order", "last"], ["order_column"]),
        node("GatherND", ["all_boxes", "order_column"], ["boxes"], batch_dims=1),  # (B, 3, 4)
        node("Cast", ["any"], ["found"], to=TensorProto.INT64),
        node("ReduceSum", ["found", "one"], ["count"], keepdims=0),  # (B,)
        node("Sign", ["scores"], ["is_scored"]),
        node("Cast", ["is_scored"], ["counts"], to=TensorProto.INT64),
        node("Mul", ["order", "counts"], ["classes"]),  # (B, 3)
    ]
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", height, width, 3])],
        [
            helper.make_tensor_value_info(output["name"], kinds[output["dtype"]], ["batch", *output["shape"]])
            for output in OUTPUTS
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
