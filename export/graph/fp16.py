"""A float32 graph --> the same graph in float16, for GPUs.

    pixels --float32: normalise--> Cast --float16: network--> Cast --> logits, float32

For a detector this is only the network. The nodes that compute boxes are appended afterwards in float32, because
float16 resolves only half a pixel at 1,000.

Weights are rounded once, after all folding. `network.half()` before the export would round the parameters of
normalisations first, and the error of the logits would be about twice as large (docs/decisions/0027).
The normalisation of pixels stays in float32, because its subtraction cancels digits. ONNX Runtime's own converter
(onnxruntime.transformers.float16) leaves nodes out of order and adds a folder to the import path that contains a
package called `models`.
"""

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from aaserve.bundle.preprocessing import Preprocessing
from aaserve.export.errors import ExportError
from aaserve.export.graph.runtime import Graph

LAYERS = ("Conv", "Gemm", "MatMul")
FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def to_fp16(model: bytes, answers: int = 1) -> bytes:
    """Convert a model of `export.graph` to float16; its input and its first `answers` outputs keep their types.

    Raises:
        ExportError: a weight is outside the range of float16, or there are no layers.
    """
    rewritten = ir.from_proto(onnx.load_model_from_string(model))
    graph = rewritten.graph
    stem = next((node for node in graph if node.op_type in LAYERS), None)
    if stem is None:
        raise ExportError(f"fp16: expected one of {', '.join(LAYERS)} in the graph, found none")
    normalising = set(list(graph)[: list(graph).index(stem)])
    for value in list(graph.initializers.values()):
        if value.dtype == FLOAT and not any(_wants_float32(*use, normalising) for use in value.uses()):
            value.const_value = ir.tensor(_rounded(value.const_value.numpy(), value.name), name=value.name)
            value.dtype = HALF
    for node in graph:
        if node.op_type == "Cast" and node not in normalising and node.attributes["to"].as_int() == FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", HALF)
        for value in node.outputs:
            if node not in normalising and value.dtype == FLOAT:
                value.dtype = HALF

    image = stem.inputs[0]
    lowered = _cast(image, HALF, f"{image.name}_half")
    for node, index in list(image.uses()):
        if node not in normalising and node is not lowered:
            node.replace_input_with(index, lowered.outputs[0])
    graph.insert_before(stem, lowered)
    for index, output in enumerate(graph.outputs[:answers]):
        name, output.name = output.name, f"{output.name}_half"
        raised = _cast(output, FLOAT, name)
        graph.append(raised)
        graph.outputs[index] = raised.outputs[0]
    return ir.to_proto(rewritten).SerializeToString(deterministic=True)


def check_range(model: bytes, pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> None:
    """Check every value inside a float16 model. An infinity may not reach the logits: a Relu turns -inf into 0.

    Raises:
        ExportError: a value is outside the range of float16 for one of the pictures `pixels` (N, H, W, 3).
    """
    watched = onnx.load_model_from_string(model)
    inferred = onnx.shape_inference.infer_shapes(watched).graph.value_info
    watched.graph.output.extend(
        value for value in inferred if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    )
    graph = Graph(watched.SerializeToString(), preprocessing)
    for picture in pixels:
        for name, content in graph.values(picture[None]).items():
            if not np.isfinite(content).all():
                raise ExportError(f"fp16: expected values up to {np.finfo(np.float16).max:.0f}, found more in {name}")


def _wants_float32(node: ir.Node, index: int, normalising: set[ir.Node]) -> bool:
    return node in normalising or (node.op_type == "Resize" and index > 0)  # its scales are always float32


def _rounded(weight: NDArray[np.float32], name: str) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = weight.astype(np.float16)
    if not np.isfinite(half).all():
        raise ExportError(f"fp16: expected weights up to {np.finfo(np.float16).max:.0f}, found more in {name}")
    return half


def _cast(value: ir.Value, to: ir.DataType, name: str) -> ir.Node:
    output = ir.val(name, to, value.shape)
    return ir.node("Cast", [value], {"to": to}, outputs=[output], name=f"{name}_cast")
