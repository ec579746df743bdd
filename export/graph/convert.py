"""A network --> the bytes of an ONNX model: dynamic batch, fixed height and width, standard operators only.

trace (PyTorch) --> normalisations into convolutions --> optimize (onnxscript) --> attention outputs --> check
"""

import logging
import warnings
from collections.abc import Mapping, Sequence

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from onnxscript.optimizer import optimize
from onnxscript.rewriter import rewrite
from torch import Tensor, nn

from aaserve.export.errors import ExportError, first_line
from aaserve.export.graph import batch_norm
from aaserve.export.graph.attention_outputs import add_attention_outputs
from aaserve.export.graph.check import checked_bytes
from aaserve.models.attention import AttentionAugmentedConv2d

INPUT_NAME = "image"
OUTPUT_NAME = "logits"
OPSET = 20
NO_LIMIT = 2**40  # bytes


def convert(
    network: nn.Module,
    example: Tensor,
    metadata: dict[str, str],
    attention: Mapping[str, AttentionAugmentedConv2d] | None = None,
    outputs: Sequence[str] = (OUTPUT_NAME,),
) -> bytes:
    """Convert `network`, in evaluation mode. The same network gives the same bytes.

    Args:
        example: an input of two rows. The graph requires its type, height and width.
        metadata: names and values to store in the model file.
        attention: the attention layers by name, in the order they run, if their maps are to be outputs; None for no
            maps.
        outputs: names of the network's outputs.

    Raises:
        ExportError: PyTorch cannot trace the network, or the result is not a valid, self-contained ONNX model.
    """
    model = _trace(network, example, outputs)
    rewrite(model, batch_norm.RULES)
    # Fold constants of any size: otherwise each start of a session computes the rest again.
    optimize(model, input_size_limit=NO_LIMIT, output_size_limit=NO_LIMIT)
    if attention:
        add_attention_outputs(model, attention)
    ClearMetadataAndDocStringPass()(model)  # source paths and stack traces of the exporting machine
    model.metadata_props.update(sorted(metadata.items()))
    return checked_bytes(ir.to_proto(model))


def _trace(network: nn.Module, example: Tensor, outputs: Sequence[str]) -> ir.Model:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's own deprecations; the parity check decides
            program = torch.onnx.export(
                network,
                (example,),
                input_names=[INPUT_NAME],
                output_names=list(outputs),
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # torch.onnx raises many types, with long traces; the first line has the reason
        raise ExportError(f"PyTorch cannot trace the network: {first_line(error)}") from error
    if isinstance(batch := program.model.graph.inputs[0].shape[0], int):
        raise ExportError(
            f"PyTorch traces a batch fixed to {batch}: the network's code turns it into a number, as len(x) does; "
            "x.shape[0] stays dynamic"
        )
    return program.model
