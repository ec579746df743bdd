"""Step: does fused attention pay? Each layer alone: two products and a softmax against `Attention` of opset 23.

"fused" has the depths of the layer. "fused, padded" pads them with zeros to a multiple of 8, since ONNX Runtime's CUDA
kernels that never write the (N, N) logits to memory want heads of queries, keys and values equally deep, by a multiple
of 8 (microsoft/onnxruntime#27542). "torch" is PyTorch's own kernel on the padded ones. float16 on a GPU.

Exported graphs have the two products and the softmax (docs/decisions/0027-export-by-pytorch-and-onnxscript.md).
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch.nn import functional as F

from aaserve.service.engine.session import left_to_the_cpu
from benchmarks.gpu.device import milliseconds
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.results import Results
from benchmarks.gpu.sessions import Bound, open_session

ALIGNMENT = 8
Shape = tuple[int, int, int, int]  # heads, positions, depth of queries and keys, depth of values


def run(plan: Plan, results: Results, work: Path) -> None:
    half = plan.device == "cuda"
    for rows in plan.attention_batches:
        for shape in plan.attention:
            said = "{} heads, {} positions, depth {}, values {}, batch {}".format(*shape, rows)
            for way, alignment in (("standard", None), ("fused", 0), ("fused, padded", ALIGNMENT)):
                results.case(
                    f"{said}: {way}",
                    lambda rows=rows, shape=shape, alignment=alignment: _onnx(plan, rows, shape, alignment, half),
                )
            results.case(f"{said}: torch", lambda rows=rows, shape=shape: _torch(plan, rows, shape, half))


def graph(shape: Shape, alignment: int | None, *, half: bool) -> bytes:
    """softmax(q k) v for q (B, Nh, N, D), k (B, Nh, D, N), v (B, Nh, N, e); fused unless `alignment` is None."""
    heads, positions, depth, values = shape
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT

    def value(name: str, *size: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, ["batch", heads, *size])

    constants: dict[str, list[int]] = {}
    if alignment is None:
        opset = 20
        nodes = [
            helper.make_node("MatMul", ["q", "k"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["shares"], axis=-1),
            helper.make_node("MatMul", ["shares", "v"], ["heads"]),
        ]
    else:
        opset = 23
        wide = -(-max(depth, values) // alignment) * alignment if alignment else None
        constants = {"start": [0], "end": [values], "axis": [3]}
        nodes = [helper.make_node("Transpose", ["k"], ["k_rows"], perm=[0, 1, 3, 2])]
        names = {"q": depth, "k_rows": depth, "v": values}
        for name, own in names.items():
            constants[f"{name}_pads"] = [0] * 7 + [wide - own if wide else 0]
            nodes.append(helper.make_node("Pad", [name, f"{name}_pads"], [f"{name}_wide"]))
        nodes += [
            helper.make_node("Attention", [f"{name}_wide" for name in names], ["wide"], scale=1.0),
            helper.make_node("Slice", ["wide", "start", "end", "axis"], ["heads"]),
        ]
    initializers = [helper.make_tensor(name, TensorProto.INT64, [len(row)], row) for name, row in constants.items()]
    inputs = [value("q", positions, depth), value("k", depth, positions), value("v", positions, values)]
    made = helper.make_graph(nodes, "attention", inputs, [value("heads", positions, values)], initializers)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return model.SerializeToString()


def operands(rows: int, shape: Shape, *, half: bool) -> dict[str, np.ndarray]:
    """Random q, k and v whose softmax is neither flat nor a single peak."""
    heads, positions, depth, values = shape
    random = np.random.default_rng(0)
    sizes = {"q": (positions, depth), "k": (depth, positions), "v": (positions, values)}
    made = {name: random.standard_normal((rows, heads, *size), np.float32) for name, size in sizes.items()}
    made["q"] *= depth**-0.5
    return {name: value.astype(np.float16) if half else value for name, value in made.items()}


def _onnx(plan: Plan, rows: int, shape: Shape, alignment: int | None, half: bool) -> dict[str, Any]:
    session = open_session(graph(shape, alignment, half=half), plan.device)
    given = operands(rows, shape, half=half)
    heads, positions, _, values = shape
    bound = Bound(session, given, (rows, heads, positions, values))
    bound()
    q, k, v = (value.astype(np.float64) for value in given.values())
    logits = np.exp(q @ k)
    expected = logits / logits.sum(-1, keepdims=True) @ v
    error = float(np.linalg.norm(bound.answer() - expected) / np.linalg.norm(expected))
    if not error < (1e-2 if half else 1e-4):
        raise ArithmeticError(f"relative error {error:.1e}")
    return {
        "ms": milliseconds(bound, plan.device, plan.seconds),
        "relative_error": error,
        "host": left_to_the_cpu(session) if plan.device != "cpu" else [],
    }


def _torch(plan: Plan, rows: int, shape: Shape, half: bool) -> dict[str, Any]:
    depth, values = shape[2:]
    wide = -(-max(depth, values) // ALIGNMENT) * ALIGNMENT
    given = {name: torch.from_numpy(value) for name, value in operands(rows, shape, half=half).items()}
    given["k"] = given["k"].transpose(2, 3)
    q, k, v = (F.pad(value, (0, wide - value.shape[-1])).contiguous().to(plan.device) for value in given.values())

    def call() -> torch.Tensor:
        with torch.inference_mode():
            return F.scaled_dot_product_attention(q, k, v, scale=1.0)

    return {"ms": milliseconds(call, plan.device, plan.seconds)}
