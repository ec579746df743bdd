"""A classifier in ONNX from another exporter --> the graph of a bundle.

    their input --Transpose, Cast, normalise--> image: uint8 NHWC, or float32 NCHW
    their output --without its Softmax--> logits

Its nodes are then folded and checked like those of our networks (`convert.py`).
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    InlinePass,
    RemoveInitializersFromInputsPass,
)
from onnxscript.optimizer import optimize
from onnxscript.rewriter import rewrite

from aaserve.bundle.preprocessing import Preprocessing
from aaserve.export.errors import ExportError, first_line
from aaserve.export.graph import batch_norm
from aaserve.export.graph.check import checked_bytes
from aaserve.export.graph.convert import INPUT_NAME, NO_LIMIT, OUTPUT_NAME
from aaserve.export.judgement.file_answers import SMALLEST, FileAnswers
from aaserve.export.sources.onnx_file import OnnxFile

TO_NCHW, TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


def convert_file(
    file: OnnxFile,
    answers: FileAnswers,
    preprocessing: Preprocessing,
    metadata: Mapping[str, str],
    *,
    pixel_input: bool,
) -> bytes:
    """Convert `file`; the same file gives the same bytes.

    Args:
        answers: the file's answers.
        pixel_input: whether the graph takes uint8 pixels and normalises them, or normalised float32 NCHW.

    Raises:
        ExportError: the result is not a valid ONNX model of standard operators.
    """
    model = ir.from_proto(file.model)
    RemoveInitializersFromInputsPass()(model)
    InlinePass()(model)
    batch = answers.max_batch_size or "batch"
    _replace_input(model.graph, file, preprocessing, batch, pixel_input=pixel_input)
    _replace_output(model.graph, file, answers, batch)
    try:
        rewrite(model, batch_norm.RULES)
        optimize(model, input_size_limit=NO_LIMIT, output_size_limit=NO_LIMIT)
    except Exception as error:  # the optimizer may raise anything
        raise ExportError(f"{file.path}: expected a graph that can be folded, found: {first_line(error)}") from error
    if left := sorted({node.op_type for node in model.graph if node.op_type == "If"}):
        raise ExportError(f"{file.path}: expected a graph without branches, found {', '.join(left)}")
    ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.metadata_props.update(sorted(metadata.items()))
    return checked_bytes(ir.to_proto(model))


def _replace_input(
    graph: ir.Graph, file: OnnxFile, preprocessing: Preprocessing, batch: int | str, *, pixel_input: bool
) -> None:
    height, width = preprocessing.crop
    old = graph.inputs[0]
    old.name = f"{old.name}_of_file"
    first = graph[0]
    nodes: list[ir.Node] = []

    def add(op_type: str, value: ir.Value, *others: ir.Value, **attributes: object) -> ir.Value:
        nodes.append(ir.node(op_type, [value, *others], attributes or None))
        return nodes[-1].outputs[0]

    def constant(name: str, values: tuple[float, ...]) -> ir.Value:
        shape = (3, 1, 1) if file.layout == "NCHW" else (3,)
        value = ir.val(name, const_value=ir.tensor(np.array(values).astype(np.float32).reshape(shape), name=name))
        graph.register_initializer(value)
        return value

    if pixel_input:
        new = ir.val(INPUT_NAME, ir.DataType.UINT8, ir.Shape([batch, height, width, 3]))
        value = add("Transpose", new, perm=TO_NCHW) if file.layout == "NCHW" else new
        if file.dtype == "float32":
            scale = tuple(1 / (255 * std) for std in preprocessing.std)
            shift = tuple(-mean / std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True))
            value = add("Cast", value, to=int(ir.DataType.FLOAT))
            value = add("Add", add("Mul", value, constant("scale", scale)), constant("shift", shift))
    else:
        new = ir.val(INPUT_NAME, ir.DataType.FLOAT, ir.Shape([batch, 3, height, width]))
        value = add("Transpose", new, perm=TO_NHWC) if file.layout == "NHWC" else new
    graph.inputs[0] = new
    ir.convenience.replace_all_uses_with(old, value)
    graph.insert_before(first, nodes)


def _replace_output(graph: ir.Graph, file: OnnxFile, answers: FileAnswers, batch: int | str) -> None:
    value = graph.outputs[0]
    if file.logits != value.name:
        value = value.producer().inputs[0]  # the input of its Softmax
    elif answers.probabilities:
        smallest = ir.val("smallest", const_value=ir.tensor(np.float32(SMALLEST), name="smallest"))
        graph.register_initializer(smallest)
        largest = ir.node("Max", [value, smallest])
        graph.extend([largest, ir.node("Log", largest.outputs)])
        value = graph[-1].outputs[0]
    value.name = OUTPUT_NAME
    value.dtype = ir.DataType.FLOAT
    value.shape = ir.Shape([batch, answers.classes])
    graph.outputs[0] = value
