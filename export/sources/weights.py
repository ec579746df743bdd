"""A state dict --> the network that it fits, every weight in its place.

"module.net.conv1.weight" --name_weights--> "conv1.weight" --load_weights--> network
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from aaserve.export.errors import ExportError

LISTED_KEYS = 10


def name_weights(
    weights: Mapping[str, Tensor], wanted: Collection[str], prefix: str | None = None
) -> tuple[dict[str, Tensor], str, int]:
    """Take a prefix off the names: `prefix`, or what all of them share until one is `wanted`.

    Wrappers add such prefixes: `module.` (DataParallel), `_orig_mod.` (torch.compile), `model.` (Lightning), `net.`, …

    Args:
        prefix: to keep only the weights whose names begin with it.

    Returns:
        The weights, the prefix that came off, and how many weights were left out for the lack of it.

    Raises:
        ExportError: no name begins with `prefix`.
    """
    if prefix is not None:
        prefix = prefix.rstrip(".") + "."
        kept = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        if not kept:
            raise ExportError(
                f"expected names of weights that begin with --key-prefix {prefix}, found {_listed(list(weights))}"
            )
        return kept, prefix, len(weights) - len(kept)
    named, taken = dict(weights), ""
    while not any(name in wanted for name in named):
        first = next(iter(named)).partition(".")[0] + "."
        if not all(name.startswith(first) and len(name) > len(first) for name in named):
            return dict(weights), "", 0
        named = {name.removeprefix(first): value for name, value in named.items()}
        taken += first
    return named, taken, 0


def head_classes(network: nn.Module, weights: Mapping[str, Tensor]) -> int:
    """Number of classes of the head in `weights`, for a network like `network`.

    Raises:
        ExportError: no such head in the weights.
    """
    head = next(name for name, module in reversed(list(network.named_modules())) if isinstance(module, nn.Linear))
    weight = weights.get(f"{head}.weight")
    if weight is None or weight.ndim != 2:
        raise ExportError(
            f"expected the head of the network, {head}.weight, found none among {_listed(list(weights))}"
            f"{_advice(weights, _without_counters(network.state_dict()))}"
        )
    return weight.shape[0]


def load_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put the weights into the network, every one of them.

    The counters `num_batches_tracked`, which older checkpoints lack, are not needed for inference.

    Raises:
        ExportError: missing, unexpected, mis-shaped or unusable weights; the message lists the first ten of each.
    """
    wanted = _without_counters(network.state_dict())
    weights = _without_counters(weights)
    fitting = {name: value for name, value in weights.items() if name in wanted and wanted[name].shape == value.shape}
    problems = {
        "missing": [name for name in wanted if name not in weights],
        "unexpected": [name for name in weights if name not in wanted],
        "of another shape": [
            f"{name} (expected {tuple(wanted[name].shape)}, found {tuple(value.shape)})"
            for name, value in weights.items()
            if name in wanted and name not in fitting
        ],
        "unusable": [
            f"{name} ({why})" for name, value in fitting.items() if (why := _unusable(name, value, wanted[name]))
        ],
    }
    if any(problems.values()):
        text = "; ".join(f"{len(names)} {kind}: {_listed(names)}" for kind, names in problems.items() if names)
        advice = _advice(weights, wanted) if problems["missing"] else ""
        raise ExportError(f"the checkpoint does not fit the network: {text}{advice}")
    network.load_state_dict({**network.state_dict(), **fitting})


def _without_counters(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if not name.endswith(".num_batches_tracked")}


def _unusable(name: str, value: Tensor, wanted: Tensor) -> str | None:
    """Why a weight of the right shape cannot be taken, if so; `wanted` has the network's type."""
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        return "expected plain numbers, found a sparse, quantised or empty tensor"
    if value.is_complex() or value.is_floating_point() != wanted.is_floating_point():
        return f"expected {wanted.dtype}, found {value.dtype}"
    taken = value.to(wanted.dtype)
    if not taken.isfinite().all():
        return "not finite"
    if name.endswith(".running_var") and bool((taken < 0).any()):
        return "a variance below 0"
    return None


def _advice(weights: Mapping[str, Tensor], wanted: Collection[str]) -> str:
    """Which --key-prefix would give every weight, if one would."""
    first = next(iter(wanted))
    prefixes = {name.removesuffix(first) for name in weights if name.endswith(f".{first}")}
    if found := sorted(prefix for prefix in prefixes if all(prefix + name in weights for name in wanted)):
        return f"; all weights are there under --key-prefix {' or '.join(found)}"
    return ""


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:LISTED_KEYS])}{', …' if len(names) > LISTED_KEYS else ''}"
