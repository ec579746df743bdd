"""Make the attention maps, which the graph computes anyway, outputs: `attention.LAYER`."""

from collections.abc import Mapping

import onnx_ir as ir

from aaserve.export.errors import ExportError
from aaserve.models.attention import AttentionAugmentedConv2d


def output_name(layer: str) -> str:
    """The name of a layer's attention map among the outputs."""
    return f"attention.{layer}"


def add_attention_outputs(model: ir.Model, layers: Mapping[str, AttentionAugmentedConv2d]) -> None:
    """Add the result of each softmax to the outputs of `model`, in place. No node changes.

    The n-th softmax of the graph is assumed to belong to the n-th of `layers`, in the order they run. If this were
    wrong, the parity check would fail: it compares each map with PyTorch's.

    Raises:
        ExportError: the graph does not have one softmax for each layer.
    """
    found = [node.outputs[0] for node in model.graph if node.op_type == "Softmax"]
    if len(found) != len(layers):
        raise ExportError(f"attention: expected {len(layers)} softmax in the graph, found {len(found)}")
    batch = model.graph.inputs[0].shape[0]
    for value, (name, layer) in zip(found, layers.items(), strict=True):
        positions = layer.feature_size[0] * layer.feature_size[1]
        value.name = output_name(name)
        value.shape = ir.Shape([batch, layer.num_heads, positions, positions])
        model.graph.outputs.append(value)
