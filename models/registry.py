"""Names --> networks."""

import difflib
import fnmatch
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from models.gather_excite import GatherExcite
from models.mnasnet import MnasNet
from models.resnet import ResNet
from models.squeeze_excite import SqueezeExcite
from models.wide_resnet import WideResNet

Network = ResNet | WideResNet | MnasNet


def _gather_excite(channels: int) -> nn.Module:
    return GatherExcite()


_aa_resnet = partial(ResNet, augmented_stages=(2, 3, 4))
_se_resnet = partial(ResNet, excite=SqueezeExcite)
_se_wide_resnet = partial(WideResNet, excite=partial(SqueezeExcite, bias=False))
_ge_wide_resnet = partial(WideResNet, excite=_gather_excite)
# Small Wide-ResNets attend at 8x8 only: at 16x16 and above attention costs more than all their convolutions. Four
# heads, because the paper's eight would leave a value depth of one or two channels a head.
_aa_small_wide_resnet = partial(WideResNet, augmented_stages=(3,), num_heads=4, kappa=0.5, upsilon=0.25)
_aa_mnasnet = partial(MnasNet, augmented_stages=(3, 4, 5, 6, 7))

_NETWORKS: dict[str, Callable[..., Network]] = {
    "resnet34": partial(ResNet, 34),
    "resnet50": partial(ResNet, 50),
    "resnet101": partial(ResNet, 101),
    "resnet152": partial(ResNet, 152),
    "se_resnet34": partial(_se_resnet, 34),
    "se_resnet50": partial(_se_resnet, 50),
    "se_resnet101": partial(_se_resnet, 101),
    "se_resnet152": partial(_se_resnet, 152),
    "aa_resnet34": partial(_aa_resnet, 34, kappa=0.25, upsilon=0.25),
    "aa_resnet50": partial(_aa_resnet, 50),
    "aa_resnet101": partial(_aa_resnet, 101),
    "aa_resnet152": partial(_aa_resnet, 152),
    "fa_resnet50": partial(_aa_resnet, 50, kappa=1.0, upsilon=1.0),
    "wide_resnet10_1": partial(WideResNet, 10, 1),
    "wide_resnet16_2": partial(WideResNet, 16, 2),
    "wide_resnet16_4": partial(WideResNet, 16, 4),
    "wide_resnet22_2": partial(WideResNet, 22, 2),
    "wide_resnet28_4": partial(WideResNet, 28, 4),
    "wide_resnet28_10": partial(WideResNet, 28, 10),
    "se_wide_resnet10_1": partial(_se_wide_resnet, 10, 1),
    "se_wide_resnet16_2": partial(_se_wide_resnet, 16, 2),
    "se_wide_resnet16_4": partial(_se_wide_resnet, 16, 4),
    "se_wide_resnet22_2": partial(_se_wide_resnet, 22, 2),
    "se_wide_resnet28_4": partial(_se_wide_resnet, 28, 4),
    "se_wide_resnet28_10": partial(_se_wide_resnet, 28, 10),
    "ge_wide_resnet10_1": partial(_ge_wide_resnet, 10, 1),
    "ge_wide_resnet16_2": partial(_ge_wide_resnet, 16, 2),
    "ge_wide_resnet16_4": partial(_ge_wide_resnet, 16, 4),
    "ge_wide_resnet22_2": partial(_ge_wide_resnet, 22, 2),
    "ge_wide_resnet28_4": partial(_ge_wide_resnet, 28, 4),
    "ge_wide_resnet28_10": partial(_ge_wide_resnet, 28, 10),
    "aa_wide_resnet10_1": partial(_aa_small_wide_resnet, 10, 1),
    "aa_wide_resnet16_2": partial(_aa_small_wide_resnet, 16, 2),
    "aa_wide_resnet16_4": partial(_aa_small_wide_resnet, 16, 4),
    "aa_wide_resnet22_2": partial(_aa_small_wide_resnet, 22, 2),
    "aa_wide_resnet28_4": partial(_aa_small_wide_resnet, 28, 4),
    "aa_wide_resnet28_10": partial(WideResNet, 28, 10, augmented_stages=(1, 2, 3)),
    "mnasnet0_75": partial(MnasNet, 0.75),
    "mnasnet1_0": partial(MnasNet, 1.0),
    "mnasnet1_25": partial(MnasNet, 1.25),
    "mnasnet1_4": partial(MnasNet, 1.4),
    "aa_mnasnet0_75": partial(_aa_mnasnet, 0.75),
    "aa_mnasnet1_0": partial(_aa_mnasnet, 1.0),
    "aa_mnasnet1_25": partial(_aa_mnasnet, 1.25),
    "aa_mnasnet1_4": partial(_aa_mnasnet, 1.4),
}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the networks that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(_NETWORKS, pattern))


def create_model(
    name: str, *, num_classes: int | None = None, image_size: int | tuple[int, int] | None = None, **overrides: Any
) -> Network:
    """Create a network with fresh weights.

    Args:
        num_classes: size of the head; None for the paper's.
        image_size: (H, W) of the input in pixels, one number for a square; None for the paper's.
        overrides: further arguments of the network's class, such as `kappa`.

    Raises:
        ValueError: no such name (the message lists near misses), or arguments that the network refuses.
    """
    if name not in _NETWORKS:
        near = difflib.get_close_matches(name, _NETWORKS, n=3) or list_models()
        raise ValueError(f"no network named {name!r}; did you mean {', '.join(near)}?")
    if num_classes is not None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        overrides["num_classes"] = num_classes
    if image_size is not None:
        overrides["image_size"] = _height_and_width(image_size)
    return _NETWORKS[name](**overrides)


def _height_and_width(image_size: int | tuple[int, int]) -> tuple[int, int]:
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"image_size must be a positive number of pixels or (H, W), got {image_size!r}")
    return sides
