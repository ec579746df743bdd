"""A graph with the outputs of a detector, and a bundle that says so; no task takes it yet, so it cannot be written."""

import hashlib
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from aaserve.bundle.bundle import MODEL_FILE, Bundle, open_bundle
from aaserve.bundle.manifest import Input, Output
from tests.helpers import REPOSITORY

SIDE = 4


def write_detector(folder: Path) -> Bundle:
    """Boxes are the first four numbers of each row of pixels, classes these of its first, the count its brightest."""
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["numbers", "rows_of_pixels"], ["rows"]),  # (B, 4, 12)
        helper.make_node("Slice", ["rows", "zero", "four", "last"], ["boxes"]),  # (B, 4, 4)
        helper.make_node("ReduceMax", ["rows", "last"], ["best"], keepdims=0),  # (B, 4)
        helper.make_node("Cast", ["best"], ["classes"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["classes", "last"], ["count"], keepdims=0),  # (B,)
    ]
    constants = {"rows_of_pixels": [-1, SIDE, 3 * SIDE], "zero": [0], "four": [4], "last": [-1]}
    outputs = [
        ("boxes", TensorProto.FLOAT, ["batch", SIDE, 4]),
        ("classes", TensorProto.INT64, ["batch", SIDE]),
        ("count", TensorProto.INT64, ["batch"]),
    ]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info(*output) for output in outputs],
        [helper.make_tensor(name, TensorProto.INT64, [len(value)], value) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / MODEL_FILE)
    shipped = open_bundle(REPOSITORY / "aa-cifar100" / "1").manifest
    manifest = shipped.model_copy(
        update={
            "files": {MODEL_FILE: hashlib.sha256((folder / MODEL_FILE).read_bytes()).hexdigest()},
            "input": Input(name="image", dtype="uint8", layout="NHWC", shape=(SIDE, SIDE, 3)),
            "outputs": (
                Output(name="boxes", dtype="float32", shape=(SIDE, 4)),
                Output(name="classes", dtype="int64", shape=(SIDE,)),
                Output(name="count", dtype="int64", shape=()),
            ),
            "attention": (),
        }
    )
    return Bundle(folder, manifest, manifest_sha256="")
