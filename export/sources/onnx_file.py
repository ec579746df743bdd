"""An ONNX file from another exporter --> its input and its output, or why it cannot be served.

bytes --parse, external data--> model --one picture in, one output, standard operators?--> OnnxFile
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
from google.protobuf.message import DecodeError

from aaserve.bundle.bundle import sha256_of
from aaserve.bundle.files.kinds import HEAD_BYTES, ONNX_MODEL, kind_of
from aaserve.export.errors import ExportError, first_line

LIMIT = 2**30  # bytes; protocol buffers are limited to 2 GiB, and the model is copied several times
OLDEST_OPSET = 13  # older models are converted, because some operators had other meanings
CONTROL_FLOW = ("Loop", "Scan", "SequenceMap")
LOWERED = {onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.BFLOAT16: "bfloat16"}
_KINDS = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.UINT8: "uint8"}


@dataclass(frozen=True)
class OnnxFile:
    """A classifier with one picture input and one output of a vector per picture.

    Args:
        model: self-contained.
        size: (height, width) of the input in pixels, None if it is dynamic.
        max_batch_size: 1 if its batch is fixed to 1, else None.
        logits: name of the tensor with the logits: the output, or the input of its Softmax.
    """

    path: Path
    sha256: str
    model: onnx.ModelProto
    input: str
    dtype: Literal["float32", "uint8"]
    layout: Literal["NCHW", "NHWC"]
    size: tuple[int | None, int | None]
    max_batch_size: int | None
    logits: str

    @property
    def opset(self) -> int:
        return _opset(self.model)


def is_onnx(path: Path) -> bool:
    """True if the name or the first bytes are those of an ONNX file."""
    if path.suffix.lower() == ".onnx" or not path.is_file():
        return path.suffix.lower() == ".onnx"
    with path.open("rb") as file:
        return kind_of(file.read(HEAD_BYTES)) == ONNX_MODEL


def read_onnx_file(path: Path) -> OnnxFile:
    """Read the file and its external data; nothing in it runs yet.

    Raises:
        ExportError: not a readable ONNX model, or not a picture classifier that can be served; one line.
    """
    try:
        model, sha256 = _load(path)
        _check_operators(model)
        if _opset(model) < OLDEST_OPSET:
            model = onnx.version_converter.convert_version(model, OLDEST_OPSET)
        found = _input(model)
        return OnnxFile(path=path, sha256=sha256, model=model, logits=_logits(model), **found)
    except ExportError as error:
        raise ExportError(f"{path}: {error}") from error
    except OSError as error:
        raise ExportError(f"{path}: expected a readable file, found: {error.strerror or error}") from error
    except (DecodeError, onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise ExportError(f"{path}: not a valid ONNX model: {first_line(error)}") from error


def _load(path: Path) -> tuple[onnx.ModelProto, str]:
    if not path.is_file():
        raise ExportError("expected a plain file" if path.exists() else "no such file")
    content = _within_limit(path, 0).read_bytes()
    if (kind := kind_of(content[:HEAD_BYTES])) not in (ONNX_MODEL, "something else"):
        raise ExportError(f"expected an ONNX model, found {kind}")
    model = onnx.load_model_from_string(content)
    if not model.graph.node:
        raise ExportError("expected an ONNX model, found one without nodes: damaged, or another format")
    beside = {
        entry.value
        for tensor in _tensors(model.graph)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    if not beside:
        return model, sha256_of(content)
    size = len(content)
    for name in sorted(beside):
        if not (path.parent / name).is_file():
            raise ExportError(f"expected its external data in {path.parent / name}, found no such file")
        size += _within_limit(path.parent / name, size).stat().st_size
    onnx.load_external_data_for_model(model, str(path.parent))  # refuses files outside that folder
    return model, sha256_of(model.SerializeToString(deterministic=True))  # covers external weights too


def _within_limit(path: Path, before: int) -> Path:
    if (size := before + path.stat().st_size) > LIMIT:
        raise ExportError(f"expected at most {LIMIT / 2**30:g} GiB with external data, found {size / 2**30:.1f} GiB")
    return path


def _check_operators(model: onnx.ModelProto) -> None:
    nodes = [*_nodes(model.graph), *(node for function in model.functions for node in function.node)]
    own = {(function.domain, function.name) for function in model.functions}
    custom = {
        f"{node.domain}::{node.op_type}"
        for node in nodes
        if node.domain not in ("", "ai.onnx") and (node.domain, node.op_type) not in own
    }
    if custom:
        raise ExportError(
            f"expected standard ONNX operators only, found {', '.join(sorted(custom))}; export it without "
            "optimisations for a runtime"
        )
    kinds = {node.op_type for node in nodes}
    if found := sorted(kinds.intersection(CONTROL_FLOW)):
        raise ExportError(f"expected a graph without loops, found {', '.join(found)}")
    lowered = {kind for kind in kinds if "Linear" in kind or "Integer" in kind}
    lowered |= {LOWERED[tensor.data_type] for tensor in _tensors(model.graph) if tensor.data_type in LOWERED}
    if lowered:
        raise ExportError(
            f"expected a float32 model, found {', '.join(sorted(lowered))}; give the float32 one, and --precision"
        )
    if any(
        node.op_type in ("BatchNormalization", "Dropout")
        and any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)
        for node in nodes
    ):
        raise ExportError("expected a model exported for inference, found a normalisation in training mode")


def _input(model: onnx.ModelProto) -> dict[str, Any]:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise ExportError(f"expected one input, a picture, found {len(inputs)}: {_described(inputs)}")
    tensor = inputs[0].type.tensor_type
    dims = [dim.dim_value or None for dim in tensor.shape.dim]
    if len(dims) != 4 or 3 not in (dims[1], dims[3]) or tensor.elem_type not in _KINDS:
        raise ExportError(
            "expected a picture input, float32 or uint8, (batch, 3, height, width) or (batch, height, width, 3), "
            f"found {_described(inputs)}"
        )
    if dims[0] not in (None, 1):
        raise ExportError(f"expected a dynamic batch or one of 1, found {dims[0]}; export it with a dynamic batch")
    layout = "NCHW" if dims[1] == 3 else "NHWC"
    return {
        "input": inputs[0].name,
        "dtype": _KINDS[tensor.elem_type],
        "layout": layout,
        "size": tuple(dims[2:] if layout == "NCHW" else dims[1:3]),
        "max_batch_size": dims[0],
    }


def _logits(model: onnx.ModelProto) -> str:
    """The name of the tensor with the logits."""
    outputs = model.graph.output
    if len(outputs) != 1:
        raise ExportError(f"expected one output, found {len(outputs)}: {_described(outputs)}")
    maker = next((node for node in model.graph.node if outputs[0].name in node.output), None)
    if maker is not None and maker.op_type == "Sigmoid":
        raise ExportError("expected logits or probabilities that sum to 1, found one Sigmoid per class")
    axes = [attribute.i for attribute in maker.attribute if attribute.name == "axis"] if maker is not None else []
    if maker is not None and maker.op_type == "Softmax" and (not axes or axes[0] in (-1, 1)):
        return maker.input[0]
    return outputs[0].name


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, including those in branches and loops."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (tensor for tensor in (attribute.t, *attribute.tensors) if tensor.ByteSize())
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _described(values: Any) -> str:
    def one(value: onnx.ValueInfoProto) -> str:
        tensor = value.type.tensor_type
        dims = ", ".join(str(dim.dim_value or dim.dim_param or "?") for dim in tensor.shape.dim)
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
        return f"{value.name} {kind} ({dims})" if tensor.HasField("shape") else f"{value.name} {kind}"

    return "; ".join(map(one, values)) or "none"


def _opset(model: onnx.ModelProto) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
