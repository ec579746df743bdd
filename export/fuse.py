"""Attention as one operator, for GPUs: `Attention` of opset 23 in the place of two products and a softmax.

    MatMul --> Softmax --> MatMul    becomes    Attention(pad(Q), pad(transpose(K)), pad(V)) --> Slice

ONNX Runtime's CUDA provider computes it without writing the N x N logits to memory, in half precision and where heads
of queries, keys and values are equally deep, by a multiple of 8 (microsoft/onnxruntime#27542). Zeros fill up what is
missing: they change no product, and what they add to the values is sliced off. Its answers are right on a GPU
(benchmarks/results/2026-11-28-gpu-parity.json); what it buys there is not measured yet.

A graph has one opset, and ONNX Runtime has no MaxPool of this one for CUDA (microsoft/onnxruntime#27715): the CPU would
compute it, in silence. It did for AA-ResNet-50, which took 2.3 times as long as unfused at batch 64.
"""

import onnx_ir as ir

from export.errors import ExportError

OPSET = 23  # the first that has it; what the other operators mean is the same as in 20
ALIGNMENT = 8


def fuse_attention(model: ir.Model, alignment: int = ALIGNMENT) -> None:
    """Rewrite `model` in place.

    Args:
        alignment: fill depths up to a multiple of this; 0 leaves them as they are.

    Raises:
        ExportError: there is no attention in it, or a MaxPool.
    """
    if any(node.op_type == "MaxPool" for node in model.graph):
        raise ExportError(
            "--optimize cuda: expected a network without MaxPool, found one: beside fused attention ONNX Runtime would "
            "compute it on the CPU (docs/exporting.md)"
        )
    shares = [node for node in model.graph if node.op_type == "Softmax"]
    for softmax in shares:
        _fuse(model.graph, softmax, alignment)
    if not shares:
        raise ExportError("--optimize cuda: expected a network with attention layers, found none in it")
    model.opset_imports[""] = OPSET


def _fuse(graph: ir.Graph, softmax: ir.Node, alignment: int) -> None:
    logits = softmax.inputs[0].producer()
    [(product, _)] = softmax.outputs[0].uses()
    (q, k), v, heads = logits.inputs, product.inputs[1], product.outputs[0]
    *rows, depth, positions = k.shape
    values = v.shape[-1]
    transpose = ir.Node("", "Transpose", [k], [ir.AttrInt64s("perm", [0, 1, 3, 2])])
    k = _added(graph, product, transpose, f"{k.name}_rows", ir.Shape([*rows, positions, depth]), k.dtype)
    wide = -(-max(depth, values) // alignment) * alignment if alignment else None
    q, k, v = (_padded(graph, product, value, wide) for value in (q, k, v))
    attention = ir.Node("", "Attention", [q, k, v], [ir.AttrFloat32("scale", 1.0)])
    found = _added(
        graph, product, attention, f"{heads.name}_attended", ir.Shape([*heads.shape[:-1], v.shape[-1]]), heads.dtype
    )
    if v.shape[-1] != values:
        ends = [_constant(graph, f"{found.name}_{name}", [value]) for name, value in (("from", 0), ("to", values))]
        axis = _constant(graph, f"{found.name}_axis", [3])
        found = _added(
            graph, product, ir.Node("", "Slice", [found, *ends, axis]), f"{heads.name}_cut", heads.shape, heads.dtype
        )
    heads.replace_all_uses_with(found)
    for node in (product, softmax, logits):
        graph.remove(node, safe=True)


def _padded(graph: ir.Graph, before: ir.Node, value: ir.Value, wide: int | None) -> ir.Value:
    """(…, depth) filled up with zeros to (…, wide)."""
    missing = 0 if wide is None else wide - value.shape[-1]
    if not missing:
        return value
    pads = _constant(graph, f"{value.name}_pads", [0] * 7 + [missing])
    pad = ir.Node("", "Pad", [value, pads])
    return _added(graph, before, pad, f"{value.name}_wide", ir.Shape([*value.shape[:-1], wide]), value.dtype)


def _added(
    graph: ir.Graph, before: ir.Node, node: ir.Node, name: str, shape: ir.Shape, dtype: ir.DataType | None
) -> ir.Value:
    """The output of `node`, which is put into the graph."""
    graph.insert_before(before, node)
    output = node.outputs[0]
    output.name, output.shape, output.dtype = name, shape, dtype
    return output


def _constant(graph: ir.Graph, name: str, content: list[int]) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(content, dtype=ir.DataType.INT64, name=name))
    graph.register_initializer(value)
    return value
