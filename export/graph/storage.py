"""Weights stored in fewer bytes and converted to float32 when the model is loaded.

    network --round_weights--> network with rounded weights --convert--> fp32 graph --store_rounded-->
        weight (float16) --Cast--> float32 [--Mul: factor of the folded normalisation--> ] --> Conv, MatMul, …
        weight of a Linear layer (int8) --Cast--> float32 --Mul: scale of each row--> Gemm

ONNX Runtime computes these casts and products once, when it loads the model. So a call is as fast as with float32
weights, and the answers are those of the network with rounded weights, with which parity compares.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from aaserve.bundle.manifest import StoredWeights
from aaserve.export.errors import ExportError
from aaserve.export.graph.check import checked_bytes
from aaserve.models.attention import AttentionAugmentedConv2d

LARGE = 1024  # numbers; for smaller weights, half the bytes save nothing
LARGEST_INT8 = 127
_SAME = 4e-7  # of a weight: three roundings of float32

Parts = tuple[NDArray[np.float16] | NDArray[np.int8], NDArray[np.float32] | None]


def round_weights(network: nn.Module, stored: StoredWeights) -> Counter[str]:
    """Round the weights of `network` in place to their stored values; return the count of numbers by type.

    Vectors (biases and normalisations) stay as they are: they are small and need the precision.

    Args:
        stored: "float16", or "int8" for int8 with a scale for each row in Linear layers, and float16 elsewhere.

    Raises:
        ExportError: a weight is outside the range of float16.
    """
    rounded: Counter[str] = Counter()
    linear = _linear_weights(network) if stored == "int8" else set()
    for name, parameter in network.named_parameters():
        weight = parameter.detach()
        if weight.ndim < 2:
            continue
        if name in linear:
            scale = torch.from_numpy(_row_scale(weight.numpy()))
            weight.copy_((weight / scale).round() * scale)
        else:
            half = weight.half()
            if not half.isfinite().all():
                raise ExportError(
                    f"--store-weights {stored}: expected weights up to {np.finfo(np.float16).max:.0f}, "
                    f"found more in {name}"
                )
            weight.copy_(half)
        rounded["int8" if name in linear else "float16"] += weight.numel()
    return rounded


def store_rounded(model: bytes, network: nn.Module, stored: StoredWeights) -> bytes:
    """Store the large weights of `model`, the graph of `network`, in fewer bytes.

    Args:
        network: after `round_weights`.
        stored: as there.
    """
    graph_model = ir.from_proto(onnx.load_model_from_string(model))
    graph = graph_model.graph
    parameters = {name: weight.detach().numpy() for name, weight in network.named_parameters()}
    linear = _linear_weights(network) if stored == "int8" else set()
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
        parameter = _parameter_name(name, parameters)
        if parameter in linear:
            parts = _int8_and_factor(weight)
        else:
            sources = queries if parameter is None else [parameters[parameter]]
            parts = _half(weight) or next(filter(None, (_half_and_factor(weight, source) for source in sources)), None)
        if parts is None:
            continue
        small, factor = parts
        smaller = _initializer(graph, f"{name}.{small.dtype}", small)
        nodes = [ir.node("Cast", [smaller], {"to": ir.DataType.FLOAT}, name=f"{name}.widen")]
        if factor is not None:
            nodes[0].outputs[0].name = f"{name}.widened"
            scale = _initializer(graph, f"{name}.factor", factor)
            nodes.append(ir.node("Mul", [nodes[0].outputs[0], scale], name=f"{name}.scale"))
        graph.insert_before(first, nodes)
        widened = nodes[-1].outputs[0]
        for node in nodes:
            node.outputs[0].shape, node.outputs[0].dtype = value.shape, ir.DataType.FLOAT
        ir.convenience.replace_all_uses_with(value, widened)
        del graph.initializers[name]
        widened.name = name
    return checked_bytes(ir.to_proto(graph_model))


def _linear_weights(network: nn.Module) -> set[str]:
    return {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Linear)}


def _parameter_name(name: str, parameters: Mapping[str, NDArray[np.float32]]) -> str | None:
    """The network's parameter behind an initializer, whose name may have the prefix of a wrapper."""
    while name not in parameters:
        _, dot, name = name.partition(".")
        if not dot:
            return None
    return name


def _row_scale(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """The size of one int8 step in each row of (rows, columns): (rows, 1)."""
    scale = np.abs(weight).max(axis=1, keepdims=True) / np.float32(LARGEST_INT8)
    return np.where(scale == 0, np.float32(1), scale)


def _int8_and_factor(weight: NDArray[np.float32]) -> Parts | None:
    """Split a weight with rounded rows into int8 and a scale per row; None if the graph has changed it."""
    scale = _row_scale(weight)
    steps = np.rint(weight / scale)
    return (steps.astype(np.int8), scale) if np.allclose(steps * scale, weight, rtol=_SAME, atol=0) else None


def _half(weight: NDArray[np.float32]) -> Parts | None:
    """The weight in float16, if that loses nothing."""
    with np.errstate(over="ignore"):
        half = weight.astype(np.float16)
    return (half, None) if np.array_equal(half.astype(np.float32), weight) else None


def _half_and_factor(weight: NDArray[np.float32], source: NDArray[np.float32]) -> Parts | None:
    """Split `weight` into `source`, which fits into float16, and a factor for each row.

    None if it is not their product.
    """
    if source.shape != weight.shape:
        return None
    rows, folded = source.reshape(len(source), -1), weight.reshape(len(weight), -1)
    largest = np.abs(rows).argmax(axis=1)[:, np.newaxis]
    divisor = np.take_along_axis(rows, largest, axis=1)  # (rows, 1); 0 only if the whole row is 0
    factor = np.take_along_axis(folded, largest, axis=1) / np.where(divisor == 0, 1, divisor)
    if not np.allclose(rows * factor, folded, rtol=_SAME, atol=0):
        return None
    return source.astype(np.float16), factor.reshape(-1, *[1] * (weight.ndim - 1))


def _initializer(graph: ir.Graph, name: str, content: NDArray[np.generic]) -> ir.Value:
    value = ir.val(name, const_value=ir.tensor(content, name=name))
    graph.register_initializer(value)
    return value
