"""A state dict --> the network that it fits, every weight in its place."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from export.errors import ExportError
from models import create_model

LISTED_KEYS = 10


def head_classes(architecture: str, weights: Mapping[str, Tensor]) -> int:
    """Number of classes of the head in `weights`.

    Raises:
        ValueError: no such architecture.
        ExportError: no such head in the weights.
    """
    with torch.device("meta"):
        network = create_model(architecture)
    head = next(name for name, module in reversed(list(network.named_modules())) if isinstance(module, nn.Linear))
    weight = weights.get(f"{head}.weight")
    if weight is None or weight.ndim != 2:
        raise ExportError(
            f"expected the head of {architecture}, {head}.weight, found none; its first keys are "
            f"{', '.join(list(weights)[:LISTED_KEYS])}"
        )
    return weight.shape[0]


def load_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put the weights into the network, every one of them.

    The counters `num_batches_tracked`, which older checkpoints lack, are not needed for inference.

    Raises:
        ExportError: missing, unexpected or mis-shaped keys; the message lists the first ten of each.
    """
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in weights and not key.endswith(".num_batches_tracked")]
    unexpected = [key for key in weights if key not in wanted]
    misshapen = [
        f"{key} (expected {tuple(wanted[key].shape)}, found {tuple(value.shape)})"
        for key, value in weights.items()
        if key in wanted and wanted[key].shape != value.shape
    ]
    problems = [
        f"{len(keys)} {kind}: {', '.join(keys[:LISTED_KEYS])}{', …' if len(keys) > LISTED_KEYS else ''}"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if keys
    ]
    if problems:
        raise ExportError(f"the checkpoint does not fit the network: {'; '.join(problems)}")
    network.load_state_dict({**wanted, **weights})
