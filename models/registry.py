"""Names --> networks."""

import difflib
import fnmatch
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from typing import Any

from torch import nn

from aaserve.models.attention.augmentation import Augmentation
from aaserve.models.networks.efficientnet_lite import EfficientNetLite0
from aaserve.models.networks.layers import GatherExcite, SqueezeExcite
from aaserve.models.networks.mnasnet import MnasNet
from aaserve.models.networks.resnet import ResNet
from aaserve.models.networks.retinanet.network import RetinaNet
from aaserve.models.networks.wide_resnet import WideResNet

Network = ResNet | WideResNet | MnasNet | EfficientNetLite0 | RetinaNet


def _gather_excite(channels: int) -> nn.Module:
    return GatherExcite()


_se_resnet = partial(ResNet, excite=SqueezeExcite)
_se_wide_resnet = partial(WideResNet, excite=partial(SqueezeExcite, bias=False))
_ge_wide_resnet = partial(WideResNet, excite=_gather_excite)

# Attention of each family as in the paper. Plain networks have these settings too, with no stage augmented, so that
# arguments can override them.
_RESNET = Augmentation(pooled_stages=(2,))
_AA_RESNET = replace(_RESNET, augmented_stages=(2, 3, 4))
_WIDE_RESNET = Augmentation()
_AA_WIDE_RESNET = replace(_WIDE_RESNET, augmented_stages=(1, 2, 3))
# MnasNet has no minimum key depth: the paper's parameter counts only fit without it.
_MNASNET = Augmentation(pooled_stages=(3,), kappa=0.1, upsilon=0.05, num_heads=4, min_key_channels_per_head=0)
_AA_MNASNET = replace(_MNASNET, augmented_stages=(3, 4, 5, 6, 7))
# At 1/16 of the image size and below, where attention is cheap.
_LITE = Augmentation(kappa=0.1, upsilon=0.05, num_heads=4, min_key_channels_per_head=0)
_AA_LITE = replace(_LITE, augmented_stages=(4, 5, 6, 7))
_lite = partial(EfficientNetLite0, least_reduction=16)
# Small Wide-ResNets attend at 8x8 only: at 16x16 and above attention costs more than all their convolutions. Four
# heads, because the paper's eight would leave a value depth of one or two channels a head.
_AA_SMALL_WIDE_RESNET = Augmentation(augmented_stages=(3,), kappa=0.5, upsilon=0.25, num_heads=4)

# Detectors use the backbones of the classifiers, so that their weights load.
_se_retinanet = partial(RetinaNet, excite=SqueezeExcite)
# For CPUs. Pictures have half the sides of the paper's, and so do anchors.
_small_retinanet = partial(
    RetinaNet, 18, width=32, image_size=(256, 320), channels=64, head_convolutions=2, anchor_base=2.0, head_norm="group"
)
_AA_SMALL_RETINANET = replace(_AA_RESNET, kappa=0.25, upsilon=0.25, num_heads=4)

_NETWORKS: dict[str, tuple[Callable[..., Network], Augmentation]] = {
    "resnet18": (partial(ResNet, 18), _RESNET),
    "resnet34": (partial(ResNet, 34), _RESNET),
    "resnet50": (partial(ResNet, 50), _RESNET),
    "resnet101": (partial(ResNet, 101), _RESNET),
    "resnet152": (partial(ResNet, 152), _RESNET),
    "se_resnet34": (partial(_se_resnet, 34), _RESNET),
    "se_resnet50": (partial(_se_resnet, 50), _RESNET),
    "se_resnet101": (partial(_se_resnet, 101), _RESNET),
    "se_resnet152": (partial(_se_resnet, 152), _RESNET),
    "aa_resnet18": (partial(ResNet, 18), replace(_AA_RESNET, kappa=0.25, upsilon=0.25)),
    "aa_resnet34": (partial(ResNet, 34), replace(_AA_RESNET, kappa=0.25, upsilon=0.25)),
    "aa_resnet50": (partial(ResNet, 50), _AA_RESNET),
    "aa_resnet101": (partial(ResNet, 101), _AA_RESNET),
    "aa_resnet152": (partial(ResNet, 152), _AA_RESNET),
    "fa_resnet50": (partial(ResNet, 50), replace(_AA_RESNET, kappa=1.0, upsilon=1.0)),
    "retinanet_resnet50": (partial(RetinaNet, 50), _RESNET),
    "retinanet_resnet101": (partial(RetinaNet, 101), _RESNET),
    "retinanet_se_resnet50": (partial(_se_retinanet, 50), _RESNET),
    "retinanet_se_resnet101": (partial(_se_retinanet, 101), _RESNET),
    "retinanet_aa_resnet50": (partial(RetinaNet, 50), _AA_RESNET),
    "retinanet_aa_resnet101": (partial(RetinaNet, 101), _AA_RESNET),
    "retinanet_small": (_small_retinanet, _RESNET),
    "retinanet_aa_small": (_small_retinanet, _AA_SMALL_RETINANET),
    "wide_resnet10_1": (partial(WideResNet, 10, 1), _WIDE_RESNET),
    "wide_resnet16_2": (partial(WideResNet, 16, 2), _WIDE_RESNET),
    "wide_resnet16_4": (partial(WideResNet, 16, 4), _WIDE_RESNET),
    "wide_resnet22_2": (partial(WideResNet, 22, 2), _WIDE_RESNET),
    "wide_resnet28_4": (partial(WideResNet, 28, 4), _WIDE_RESNET),
    "wide_resnet28_10": (partial(WideResNet, 28, 10), _WIDE_RESNET),
    "se_wide_resnet10_1": (partial(_se_wide_resnet, 10, 1), _WIDE_RESNET),
    "se_wide_resnet16_2": (partial(_se_wide_resnet, 16, 2), _WIDE_RESNET),
    "se_wide_resnet16_4": (partial(_se_wide_resnet, 16, 4), _WIDE_RESNET),
    "se_wide_resnet22_2": (partial(_se_wide_resnet, 22, 2), _WIDE_RESNET),
    "se_wide_resnet28_4": (partial(_se_wide_resnet, 28, 4), _WIDE_RESNET),
    "se_wide_resnet28_10": (partial(_se_wide_resnet, 28, 10), _WIDE_RESNET),
    "ge_wide_resnet10_1": (partial(_ge_wide_resnet, 10, 1), _WIDE_RESNET),
    "ge_wide_resnet16_2": (partial(_ge_wide_resnet, 16, 2), _WIDE_RESNET),
    "ge_wide_resnet16_4": (partial(_ge_wide_resnet, 16, 4), _WIDE_RESNET),
    "ge_wide_resnet22_2": (partial(_ge_wide_resnet, 22, 2), _WIDE_RESNET),
    "ge_wide_resnet28_4": (partial(_ge_wide_resnet, 28, 4), _WIDE_RESNET),
    "ge_wide_resnet28_10": (partial(_ge_wide_resnet, 28, 10), _WIDE_RESNET),
    "aa_wide_resnet10_1": (partial(WideResNet, 10, 1), _AA_SMALL_WIDE_RESNET),
    "aa_wide_resnet16_2": (partial(WideResNet, 16, 2), _AA_SMALL_WIDE_RESNET),
    "aa_wide_resnet16_4": (partial(WideResNet, 16, 4), _AA_SMALL_WIDE_RESNET),
    "aa_wide_resnet22_2": (partial(WideResNet, 22, 2), _AA_SMALL_WIDE_RESNET),
    "aa_wide_resnet28_4": (partial(WideResNet, 28, 4), _AA_SMALL_WIDE_RESNET),
    "aa_wide_resnet28_10": (partial(WideResNet, 28, 10), _AA_WIDE_RESNET),
    "efficientnet_lite0": (_lite, _LITE),
    "aa_efficientnet_lite0": (_lite, _AA_LITE),
    "mnasnet0_75": (partial(MnasNet, 0.75), _MNASNET),
    "mnasnet1_0": (partial(MnasNet, 1.0), _MNASNET),
    "mnasnet1_25": (partial(MnasNet, 1.25), _MNASNET),
    "mnasnet1_4": (partial(MnasNet, 1.4), _MNASNET),
    "aa_mnasnet0_75": (partial(MnasNet, 0.75), _AA_MNASNET),
    "aa_mnasnet1_0": (partial(MnasNet, 1.0), _AA_MNASNET),
    "aa_mnasnet1_25": (partial(MnasNet, 1.25), _AA_MNASNET),
    "aa_mnasnet1_4": (partial(MnasNet, 1.4), _AA_MNASNET),
}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the networks that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(_NETWORKS, pattern))


def is_detector(name: str) -> bool:
    """True if the network of this name maps pictures to boxes, False if to the logits of a picture.

    Raises:
        ValueError: no such network.
    """
    return check_name(name).startswith("retinanet_")


def check_name(name: str) -> str:
    """Return the name.

    Raises:
        ValueError: no such network; the message lists near misses.
    """
    if name not in _NETWORKS:
        near = difflib.get_close_matches(name, _NETWORKS, n=3) or list_models()
        raise ValueError(f"no network named {name!r}; did you mean {', '.join(near)}?")
    return name


def create_model(
    name: str, *, num_classes: int | None = None, image_size: int | tuple[int, int] | None = None, **overrides: Any
) -> Network:
    """Create a network with fresh weights.

    Args:
        num_classes: size of the head; None for the paper's.
        image_size: (H, W) of the input in pixels, one number for a square; None for the paper's.
        overrides: further arguments of the network's class, or fields of its Augmentation such as `kappa`.

    Raises:
        ValueError: no such name (the message lists near misses), or arguments that the network rejects.
    """
    check_name(name)
    if num_classes is not None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        overrides["num_classes"] = num_classes
    if image_size is not None:
        overrides["image_size"] = _height_and_width(image_size)
    build, augmentation = _NETWORKS[name]
    changes = {field.name: overrides.pop(field.name) for field in fields(Augmentation) if field.name in overrides}
    return build(augmentation=replace(augmentation, **changes), **overrides)


def _height_and_width(image_size: int | tuple[int, int]) -> tuple[int, int]:
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"image_size must be a positive number of pixels or (H, W), got {image_size!r}")
    return sides
