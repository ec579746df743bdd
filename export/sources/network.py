"""Checkpoint and description --> the network with the weights of the checkpoint.

outline without memory --> names of the weights, number of classes --> network --load_weights--> ready to convert
--arch module:function --> network --load_weights--> one vector per picture? --> ready to convert
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from aaserve.export.errors import ExportError
from aaserve.export.request import Request
from aaserve.export.sources.checkpoint import Checkpoint
from aaserve.export.sources.description import Description
from aaserve.export.sources.factory import build_own, check_answer, is_own
from aaserve.export.sources.weights import detected_classes, head_classes, load_weights, name_weights
from aaserve.models import create_model
from aaserve.models.attention.relative_tables import resize_relative_tables
from aaserve.models.networks.efficientnet_lite import timm_names
from aaserve.models.networks.retinanet.network import RetinaNet


def build_network(
    request: Request, description: Description, checkpoint: Checkpoint, report: Callable[[str], None]
) -> nn.Module:
    """Build the network in evaluation mode; `report` gets the chosen weights and the removed prefix.

    Raises:
        ValueError: no such architecture, or an image size that does not fit it.
        ExportError: the weights or the options in the checkpoint do not fit the network.
    """
    num_classes = len(description.labels)
    if is_own(description.architecture):
        network = build_own(description.architecture, description.options)
        weights = _named_weights(request, checkpoint, network, report)
    else:
        with torch.device("meta"):
            outline = _create(description, checkpoint, num_classes=1)
        weights = _named_weights(request, checkpoint, outline, report)
        found = detected_classes(outline, weights) if isinstance(outline, RetinaNet) else head_classes(outline, weights)
        _require_classes(request, description, found)
        network = _create(description, checkpoint, num_classes=num_classes)
    if request.image_size:
        weights = resize_relative_tables(weights, network)
    load_weights(network, weights)
    network.eval()
    if is_own(description.architecture):
        check_answer(network, description.preprocessing.crop, num_classes)
        _require_classes(request, description, num_classes)
    return network


def _create(description: Description, checkpoint: Checkpoint, *, num_classes: int) -> nn.Module:
    try:
        return create_model(
            description.architecture,
            num_classes=num_classes,
            image_size=description.preprocessing.crop,
            **description.options,
        )
    except ValueError:
        raise
    except Exception as error:  # the options come from the user or the file, so a network may raise any exception
        raise ExportError(
            f"{checkpoint.path}: {description.options} make no {description.architecture}: {error}"
        ) from error


def _named_weights(
    request: Request, checkpoint: Checkpoint, outline: nn.Module, report: Callable[[str], None]
) -> dict[str, Tensor]:
    """The weights under the network's names."""
    given = timm_names(checkpoint.weights)
    weights, prefix, left_out = name_weights(given, outline.state_dict(), request.key_prefix)
    if checkpoint.nested_key:
        report(f"weights are under {checkpoint.nested_key!r}")
    if prefix:
        without = f"; {left_out} weights without it are left out" if left_out else ""
        report(f"names of the weights begin with {prefix!r}, which is taken off{without}")
    return weights


def _require_classes(request: Request, description: Description, found: int) -> None:
    for expected, source in ((len(description.labels), "labels"), (request.num_classes, "--num-classes")):
        if expected is not None and expected != found:
            raise ExportError(f"{request.checkpoint}: expected a head of {expected} classes ({source}), found {found}")
