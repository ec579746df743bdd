"""Makes the attention maps that a graph computes anyway its further outputs: `attention.LAYER`."""

from collections.abc import Mapping

import onnx_ir as ir

from export.errors import ExportError
from models.attention import AttentionAugmentedConv2d


def output_name(layer: str) -> str:
    """The name of a layer's attention map among the outputs."""
    return f"attention.{layer}"


def expose_attention(model: ir.Model, layers: Mapping[str, AttentionAugmentedConv2d]) -> None:
    """Rewrite `model` in place: the softmax of each of `layers`, in the order in which they run, is an output as well.

    No node is added, and none computes anything else. Which softmax belongs to which layer is the parity check's
    business, which compares each map with PyTorch's.

    Raises:
        ExportError: the graph has not as many as there are layers.
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
