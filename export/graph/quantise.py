"""A float32 graph --> the same graph with its convolutions in 8 bits (static QDQ), for CPUs with integer dot products.

    calibration pictures --> ranges of activations --> QuantizeLinear, DequantizeLinear around convolutions and sums

Measurements decided what stays in float32 (docs/decisions/0008-precision.md): the products and the softmax of
attention, which are slower in 8 bits; the first convolution and the 1x1 depthwise ones that replace normalisations,
which together cause nearly a third of the disagreement with fp32; the classifier, and the last convolution of each head
of a detector. Weights use 7 of the 8 bits, because processors without VNNI add products in 16 bits and would saturate.
"""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from aaserve.export.errors import ExportError

QUANTISED = ("Conv", "Add", "Relu")
# An Add of their outputs is a residual sum, not the marks of attention's keys or the normalisation of pixels.
FEATURE_MAPS = {"Conv", "Relu", "Add", "Mul", "Pad", "AveragePool", "MaxPool", "Concat", "Resize"}
LAYOUT = {"Concat", "Flatten", "Reshape", "Transpose"}  # these change no value


def quantise(model: bytes, feeds: Iterable[dict[str, NDArray[np.generic]]]) -> tuple[bytes, dict[str, int]]:
    """Quantise a model of `export.graph.convert`; return it and the number of operators of each type in 8 bits.

    The metadata of the model become those of the quantiser.

    Args:
        feeds: the model's inputs by name, one dictionary per batch of calibration pictures.

    Raises:
        ExportError: nothing in the model can be quantised.
    """
    parsed = onnx.load_model_from_string(model)
    kept, counts = _kept_in_float(parsed.graph), quantisable(parsed.graph)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        # Without this the quantiser warns about missing shape inference and constant folding; both are done.
        parsed.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
        quantize_static(
            parsed,
            path,
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_exclude=sorted(kept),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibration_providers=["CPUExecutionProvider"],
        )
        quantised = onnx.load(path)
    return quantised.SerializeToString(deterministic=True), dict(counts)


def quantisable(graph: onnx.GraphProto) -> Counter[str]:
    """Number of operators of each type that `quantise` computes in 8 bits.

    Raises:
        ExportError: no convolution is among them.
    """
    kept = _kept_in_float(graph)
    chosen = [node for node in graph.node if node.op_type in QUANTISED and node.name not in kept]
    counts = Counter(node.op_type for node in chosen if node.op_type != "Relu")
    if not counts["Conv"]:
        all_of_them = sum(node.op_type == "Conv" for node in graph.node)
        found = f"only {all_of_them}, which int8 leaves in float32 for accuracy" if all_of_them else "none"
        raise ExportError(f"--precision int8: expected convolutions to quantise, found {found}")
    return counts


class _Reader(CalibrationDataReader):
    def __init__(self, feeds: Iterable[dict[str, NDArray[np.generic]]]) -> None:
        self._feeds: Iterator[dict[str, NDArray[np.generic]]] = iter(feeds)

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        return next(self._feeds, None)


def _kept_in_float(graph: onnx.GraphProto) -> set[str]:
    """Names of the nodes of the types QUANTISED that stay in float32."""
    weights = {tensor.name: tensor.dims for tensor in graph.initializer}
    maker = {output: node.op_type for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    sums = [node for node in graph.node if node.op_type == "Add"]
    return (
        {node.name for node in convolutions[:1]}
        | {node.name for node in convolutions if tuple(weights.get(node.input[1], ())[1:]) == (1, 1, 1)}
        | _answering(graph)
        | {node.name for node in sums if not all(maker.get(name) in FEATURE_MAPS for name in node.input)}
    )


def _answering(graph: onnx.GraphProto) -> set[str]:
    """Names of the convolutions whose values are answers: logits, offsets of boxes."""
    maker = {output: node for node in graph.node for output in node.output}
    waiting, found = [output.name for output in graph.output], set()
    while waiting:
        node = maker.get(waiting.pop())
        if node and node.op_type == "Conv":
            found.add(node.name)
        elif node and node.op_type in LAYOUT:
            waiting += node.input
    return found
