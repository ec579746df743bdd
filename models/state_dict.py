"""Do these weights fit that network? Shared by the exporter and training, so that both print the same errors."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

LISTED = 10


def without_counters(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove `num_batches_tracked`: older checkpoints lack it, and inference does not need it."""
    return {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}


def misfits(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Differences that keep the weights `found` from replacing `wanted`, by kind; empty if they fit."""
    wanted, found = without_counters(wanted), without_counters(found)
    both = {name: value for name, value in found.items() if name in wanted}
    fitting = {name: value for name, value in both.items() if wanted[name].shape == value.shape}
    problems = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "of another shape": [
            f"{name} (expected {tuple(wanted[name].shape)}, found {tuple(value.shape)})"
            for name, value in both.items()
            if name not in fitting
        ],
        "unusable": [
            f"{name} ({why})" for name, value in fitting.items() if (why := _unusable(name, value, wanted[name]))
        ],
    }
    return {kind: names for kind, names in problems.items() if names}


def told(problems: Mapping[str, list[str]]) -> str:
    """`misfits` as one line: "2 missing: fc.weight, fc.bias; 1 unexpected: head.weight"."""
    return "; ".join(f"{len(names)} {kind}: {listed(names)}" for kind, names in problems.items())


def listed(names: list[str]) -> str:
    """The first ten names."""
    return f"{', '.join(names[:LISTED])}{', …' if len(names) > LISTED else ''}"


def head_of(network: nn.Module) -> str | None:
    """The name of the last linear layer, if there is one."""
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else None


def _unusable(name: str, value: Tensor, wanted: Tensor) -> str | None:
    """Why a weight of the right shape cannot be used, or None; `wanted` has the network's type."""
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
