"""Small classifiers as ONNX files, and the command that exports them."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LABELS = ["ant", "bee", "cat", "dog", "eel"]
SIDE = 16
Run = Callable[..., tuple[int, str]]
Nodes = Sequence[onnx.NodeProto]
NORMALISED = ("--mean", "0.5,0.4,0.3", "--std", "0.25,0.2,0.3")


def classifier(
    *,
    layout: str = "NCHW",
    kind: int = TensorProto.FLOAT,
    batch: object = "N",
    sides: Sequence[object] = (SIDE, SIDE),
    ends: Nodes = (),
    output: str = "answer",
    opset: int = 20,
    reshape: Sequence[int] = (0, -1),
    more_inputs: Sequence[onnx.ValueInfoProto] = (),
    more_outputs: Sequence[str] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """Transpose, Cast, Conv, BatchNormalization, Relu, pooling, Reshape, Gemm to `answer`, and then `ends`.

    Values inside are called `image` and `logits`, the names that bundles have for the ends of their graphs.
    """
    random = np.random.default_rng(0)
    weights = {
        "filters": random.normal(size=(8, 3, 3, 3)),
        **{name: random.uniform(0.5, 1.5, 8) for name in ("gamma", "beta", "mean", "var")},
        "head": random.normal(size=(8, len(LABELS))),
    }
    nodes = [
        helper.make_node("Transpose", ["picture"], ["image"], perm=(0, 3, 1, 2) if layout == "NHWC" else (0, 1, 2, 3)),
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["numbers", "filters"], ["features"], strides=(2, 2)),
        helper.make_node("BatchNormalization", ["features", "gamma", "beta", "mean", "var"], ["normal"]),
        helper.make_node("Relu", ["normal"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["logits"]),
        helper.make_node("Reshape", ["logits", "shape"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head"], ["answer"]),
        *ends,
    ]
    shape = [batch, 3, *sides] if layout == "NCHW" else [batch, *sides, 3]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("picture", kind, shape), *more_inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (output, *more_outputs)],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
        + [numpy_helper.from_array(np.array(reshape), "shape")],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)
