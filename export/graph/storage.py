"""Weights stored as float16 and widened when the model is loaded: half the file, the arithmetic stays float32.

    network --round_weights--> network with values of float16 --convert--> fp32 graph --store_as_float16-->
        weight (float16) --Cast--> float32 [--Mul: factor of the folded normalisation--> ] --> Conv, MatMul, …

ONNX Runtime computes these casts and products once, when it loads the model. So a call costs what it costs with float32
weights, and the answers are those of the network with rounded weights, which parity compares with.
"""

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from aaserve.export.errors import ExportError
from aaserve.export.graph.check import checked_bytes
from aaserve.models.attention import AttentionAugmentedConv2d

LARGE = 1024  # numbers; storing fewer in half the bytes saves nothing
_SAME = 4e-7  # of a weight: three roundings of float32


def round_weights(network: nn.Module) -> int:
    """Round the weights of `network` to values of float16, in place; return how many numbers that are.

    Vectors are left alone: biases, and the normalisations, which are precise and small.

    Raises:
        ExportError: a weight is out of the range of float16.
    """
    rounded = 0
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            half = weight.detach().half()
            if not half.isfinite().all():
                raise ExportError(
                    f"--store-weights float16: expected weights up to {np.finfo(np.float16).max:.0f}, "
                    f"found more in {name}"
                )
            with torch.no_grad():
                weight.copy_(half)
            rounded += weight.numel()
    return rounded


def store_as_float16(model: bytes, network: nn.Module) -> bytes:
    """Store the large weights of `model`, the graph of `network`, as float16.

    Args:
        network: after `round_weights`.
    """
    graph_model = ir.serde.deserialize_model(onnx.load_model_from_string(model))
    graph = graph_model.graph
    parameters = {name: weight.detach().numpy() for name, weight in network.named_parameters()}
    queries = [
        layer.qkv.weight.detach()[: layer.key_channels].flatten(1).T.numpy()  # as the layer multiplies with them
        for layer in network.modules()
        if isinstance(layer, AttentionAugmentedConv2d)
    ]
    first = next(iter(graph))
    for name, value in list(graph.initializers.items()):
        weight = value.const_value.numpy()
        if value.dtype != ir.DataType.FLOAT or weight.ndim < 2 or weight.size < LARGE:
            continue
        parameter = _parameter(name, parameters)
        sources = [parameter] if parameter is not None else queries
        parts = _half(weight) or next(filter(None, (_half_and_factor(weight, source) for source in sources)), None)
        if parts is None:
            continue
        half, factor = parts
        stored = _initializer(graph, f"{name}.float16", half)
        widen = ir.Node("", "Cast", [stored], [ir.AttrInt64("to", ir.DataType.FLOAT)], name=f"{name}.widen")
        nodes = [widen]
        if factor is not None:
            scale = _initializer(graph, f"{name}.factor", factor)
            nodes.append(ir.Node("", "Mul", [widen.outputs[0], scale], name=f"{name}.scale"))
            widen.outputs[0].name = f"{name}.widened"
        graph.insert_before(first, nodes)
        widened = nodes[-1].outputs[0]
        for node in nodes:
            node.outputs[0].shape, node.outputs[0].dtype = value.shape, ir.DataType.FLOAT
        for user, index in list(value.uses()):
            user.replace_input_with(index, widened)
        del graph.initializers[name]
        widened.name = name
    return checked_bytes(ir.to_proto(graph_model))


def _parameter(name: str, parameters: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32] | None:
    """The network's parameter behind an initializer, whose name may have the prefix of a wrapper."""
    while name not in parameters:
        _, dot, name = name.partition(".")
        if not dot:
            return None
    return parameters[name]


def _half(weight: NDArray[np.float32]) -> tuple[NDArray[np.float16], None] | None:
    """The weight in float16, if that loses nothing."""
    with np.errstate(over="ignore"):
        half = weight.astype(np.float16)
    return (half, None) if np.array_equal(half.astype(np.float32), weight) else None


def _half_and_factor(
    weight: NDArray[np.float32], source: NDArray[np.float32]
) -> tuple[NDArray[np.float16], NDArray[np.float32]] | None:
    """Split `weight` into `source`, whose values are those of float16, and a factor for each of its rows.

    None if it is not made of the two.
    """
    if source.shape != weight.shape:
        return None
    rows, folded = source.reshape(len(source), -1), weight.reshape(len(weight), -1)
    largest = np.abs(rows).argmax(axis=1)[:, np.newaxis]
    divisor = np.take_along_axis(rows, largest, axis=1)  # (rows, 1); 0 only where all of the row is
    factor = np.take_along_axis(folded, largest, axis=1) / np.where(divisor == 0, 1, divisor)
    if not np.allclose(rows * factor, folded, rtol=_SAME, atol=0):
        return None
    return source.astype(np.float16), factor.reshape(-1, *[1] * (weight.ndim - 1))


def _initializer(graph: ir.Graph, name: str, content: NDArray[np.generic]) -> ir.Value:
    tensor = ir.tensor(content, name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value
