"""Names --> networks."""

import difflib
import fnmatch
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from models.wide_resnet import WideResNet

# Small Wide-ResNets attend at 8x8 only: at 16x16 and above attention costs more than all their convolutions. Four
# heads, because the paper's eight would leave a value depth of one or two channels a head.
_small_attention = partial(WideResNet, augmented_stages=(3,), num_heads=4, kappa=0.5, upsilon=0.25)

_NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "wide_resnet10_1": partial(WideResNet, 10, 1),
    "wide_resnet16_4": partial(WideResNet, 16, 4),
    "wide_resnet22_2": partial(WideResNet, 22, 2),
    "wide_resnet28_10": partial(WideResNet, 28, 10),
    "aa_wide_resnet10_1": partial(_small_attention, 10, 1),
    "aa_wide_resnet16_4": partial(_small_attention, 16, 4),
    "aa_wide_resnet22_2": partial(_small_attention, 22, 2),
    "aa_wide_resnet28_10": partial(WideResNet, 28, 10, augmented_stages=(1, 2, 3)),
}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the networks that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(_NETWORKS, pattern))


def create_model(
    name: str, *, num_classes: int | None = None, image_size: tuple[int, int] | None = None, **overrides: Any
) -> nn.Module:
    """Create a network with fresh weights.

    Args:
        num_classes: size of the head; None for the paper's.
        image_size: (H, W) of the input in pixels; None for the paper's.
        overrides: further arguments of the network's class, such as `kappa`.

    Raises:
        ValueError: no such name (the message lists near misses), or arguments that the network refuses.
    """
    if name not in _NETWORKS:
        near = difflib.get_close_matches(name, _NETWORKS, n=3) or list_models()
        raise ValueError(f"no network named {name!r}; did you mean {', '.join(near)}?")
    if num_classes is not None:
        overrides["num_classes"] = num_classes
    if image_size is not None:
        overrides["image_size"] = image_size
    return _NETWORKS[name](**overrides)
