"""A network --> the bytes of an ONNX model: batch dynamic, height and width fixed, standard operators only."""

import logging
import warnings

import onnx
import torch
from torch import nn

from export.errors import ExportError

INPUT_NAME = "image"
OUTPUT_NAME = "logits"
OPSET = 20


def convert(network: nn.Module, image_size: tuple[int, int], metadata: dict[str, str]) -> bytes:
    """Trace `network` (in eval mode) for float32 input (batch, 3, H, W); the same network gives the same bytes.

    Args:
        metadata: names and values that the model file carries.

    Raises:
        ExportError: PyTorch cannot trace it, or the result is no valid, self-contained ONNX model.
    """
    example = torch.zeros(2, 3, *image_size)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's own deprecations; parity is what decides
            program = torch.onnx.export(
                network,
                (example,),
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # torch.onnx raises many kinds, with long traces; the first line says what it is
        raise ExportError(f"PyTorch cannot trace the network: {str(error).splitlines()[0]}") from error
    model = program.model_proto
    _strip(model)
    for key, value in sorted(metadata.items()):
        model.metadata_props.add(key=key, value=value)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the graph is not valid ONNX: {str(error).splitlines()[0]}") from error
    domains = {node.domain for node in model.graph.node} | {opset.domain for opset in model.opset_import}
    if not domains <= {"", "ai.onnx"}:
        raise ExportError(f"expected standard ONNX operators only, found the domains {sorted(domains - {''})}")
    return model.SerializeToString(deterministic=True)


def _strip(model: onnx.ModelProto) -> None:
    """Remove what the tracer leaves for debugging: source paths and stack traces of the exporting machine."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.graph.doc_string = model.doc_string = ""
    for item in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    for value in model.graph.value_info:
        del value.metadata_props[:]
        value.doc_string = ""
