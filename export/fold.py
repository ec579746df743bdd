"""Takes every BatchNormalization out of a graph.

In evaluation a normalisation is `scale * x + shift` for each channel. It moves backwards through a Concat, part by
part, and through a linear Resize, whose weights sum to one, until a Conv absorbs it into weights and bias. Where none
does, as before the first activation of a pre-activation block, a 1x1 depthwise Conv takes its place.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Vector = NDArray[np.float64]  # (channels,)


def fold_batch_normalization(model: ir.Model) -> None:
    """Rewrite `model` in place; afterwards it holds no BatchNormalization."""
    for node in list(model.graph):
        if node.op_type == "BatchNormalization":
            _fold(model.graph, node)


def _fold(graph: ir.Graph, node: ir.Node) -> None:
    gamma, beta, mean, variance = (value.const_value.numpy().astype(np.float64) for value in node.inputs[1:])
    scale = gamma / np.sqrt(variance + node.attributes["epsilon"].as_float())
    shift = beta - mean * scale
    source, normalised = node.inputs[0], node.outputs[0]
    if _absorbs(source):
        _absorb(graph, source, scale, shift)
        normalised.replace_all_uses_with(source)
    else:
        weight = _initialiser(graph, f"{normalised.name}_scale", scale[:, None, None, None])
        bias = _initialiser(graph, f"{normalised.name}_shift", shift)
        depthwise = ir.Node("", "Conv", [source, weight, bias], [ir.AttrInt64("group", len(scale))])
        depthwise.outputs[0].shape, depthwise.outputs[0].dtype = normalised.shape, normalised.dtype
        graph.insert_before(node, depthwise)
        normalised.replace_all_uses_with(depthwise.outputs[0])
    graph.remove(node, safe=True)


def _absorbs(value: ir.Value) -> bool:
    """Whether `value` comes from nodes that can take a factor and a summand for each channel, and goes nowhere else."""
    node = value.producer()
    if node is None or len(value.uses()) != 1 or value.is_graph_output():
        return False
    if node.op_type == "Concat":
        return node.attributes["axis"].as_int() == 1 and all(map(_absorbs, node.inputs))
    return node.op_type == "Conv" or (node.op_type == "Resize" and _absorbs(node.inputs[0]))


def _absorb(graph: ir.Graph, value: ir.Value, scale: Vector, shift: Vector) -> None:
    node = value.producer()
    if node.op_type == "Concat":
        start = 0
        for part in node.inputs:
            end = start + part.shape[1]
            _absorb(graph, part, scale[start:end], shift[start:end])
            start = end
    elif node.op_type == "Resize":
        _absorb(graph, node.inputs[0], scale, shift)
    else:
        weight = node.inputs[1].const_value.numpy()  # (out, in, k, k)
        bias = node.inputs[2].const_value.numpy() if len(node.inputs) > 2 else 0.0
        node.resize_inputs(3)
        node.replace_input_with(1, _initialiser(graph, f"{value.name}_weight", weight * scale[:, None, None, None]))
        node.replace_input_with(2, _initialiser(graph, f"{value.name}_bias", bias * scale + shift))


def _initialiser(graph: ir.Graph, name: str, content: NDArray[np.floating]) -> ir.Value:
    tensor = ir.tensor(content.astype(np.float32), name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
