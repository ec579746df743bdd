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

from aaserve.export.errors import ExportError
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
    """Convert `network`, which is in evaluation mode. The same network gives the same bytes.

    Args:
        example: an input of two rows, whose type, height and width the graph then requires.
        metadata: names and values that the model file carries.
        attention: the attention layers by name, in the order they run, to make their maps outputs; None for no maps.
        outputs: names of what the network returns.

    Raises:
        ExportError: PyTorch cannot trace the network, or the result is not a valid, self-contained ONNX model.
    """
    model = _trace(network, example, outputs)
    rewrite(model, batch_norm.RULES)
    # Constants of any size: what the default limits leave, each start of a session would compute again.
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
    except Exception as error:  # torch.onnx raises many kinds, with long traces; the first line has the reason
        raise ExportError(f"PyTorch cannot trace the network: {str(error).splitlines()[0]}") from error
    if isinstance(batch := program.model.graph.inputs[0].shape[0], int):
        raise ExportError(
            f"PyTorch traces a batch fixed to {batch}: the network's code makes a number of it, as len(x) does; "
            "x.shape[0] stays dynamic"
        )
    return program.model
