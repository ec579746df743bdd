"""A network --> the bytes of an ONNX model: batch dynamic, height and width fixed, standard operators only."""

import logging
import warnings
from collections.abc import Mapping

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass, IdentityEliminationPass, RemoveUnusedNodesPass
from onnxscript.optimizer import fold_constants
from torch import Tensor, nn

from export.errors import ExportError
from export.expose import expose_attention
from export.fold import fold_batch_normalization
from export.scales import fix_scales
from export.translate import scaled_dot_product_attention
from export.unpad import unpad_products
from export.valid import checked_bytes
from models.attention import AttentionAugmentedConv2d

INPUT_NAME = "image"
OUTPUT_NAME = "logits"
OPSET = 20


def convert(
    network: nn.Module,
    example: Tensor,
    metadata: dict[str, str],
    attention: Mapping[str, AttentionAugmentedConv2d] | None = None,
) -> bytes:
    """Trace `network` (in eval mode); the same network gives the same bytes.

    Args:
        example: an input of two rows, whose type, height and width the graph then requires.
        metadata: names and values that the model file carries.
        attention: layers by name, in the order in which they run, whose maps become outputs; all or none.

    Raises:
        ExportError: PyTorch cannot trace it, or the result is no valid, self-contained ONNX model.
    """
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
                custom_translation_table={
                    torch.ops.aten.scaled_dot_product_attention.default: scaled_dot_product_attention
                },
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # torch.onnx raises many kinds, with long traces; the first line says what it is
        raise ExportError(f"PyTorch cannot trace the network: {str(error).splitlines()[0]}") from error
    _simplify(program.model)
    if attention:
        expose_attention(program.model, attention)
    ClearMetadataAndDocStringPass()(program.model)  # source paths and stack traces of the exporting machine
    model = program.model_proto
    for key, value in sorted(metadata.items()):
        model.metadata_props.add(key=key, value=value)
    return checked_bytes(model)


def _simplify(model: ir.Model) -> None:
    # Weights count as constants too, whatever their size; the optimizer's own limits would leave them to each start.
    fold_constants(model, input_size_limit=2**40, output_size_limit=2**40)
    unpad_products(model)
    fix_scales(model)
    fold_batch_normalization(model)
    IdentityEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
