"""MnasNet-A1, plain and attention-augmented.

Sources: Tan et al. 2019, figure 7a and the authors' own code (widths rounded to multiples of 8, head always 1280);
Bello et al. 2019, section 4.3: the 1x1 expansions of the last thirteen blocks are augmented, without a minimum key
depth, those of the first augmented stage at half their resolution. A1 is the MnasNet with squeeze-and-excitation,
whose 3.89 M parameters the paper quotes; torchvision's MNASNet is the variant B1. State-dict names are those of timm's
`semnasnet`, except that its `se.conv_reduce` and `se.conv_expand` are `se.fc1` and `se.fc2` here.
"""

from typing import Any

from torch.nn import functional as F

from aaserve.models.networks.inverted_residual import InvertedResidualNet, Stage, Style, symmetric_conv2d

STAGES = (  # the rows of figure 7a
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(3, 5, 2, 3, 40, squeeze_excite=True),
    Stage(4, 3, 2, 6, 80),
    Stage(2, 3, 1, 6, 112, squeeze_excite=True),
    Stage(3, 5, 2, 6, 160, squeeze_excite=True),
    Stage(1, 3, 1, 6, 320),
)


class MnasNet(InvertedResidualNet):
    """MnasNet-A1 of a `width`; maps (B, 3, H, W) to logits (B, num_classes).

    Args:
        width: factor on all channels but the head's (paper: 0.75, 1, 1.25, 1.4).
        arguments: those of InvertedResidualNet.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(self, width: float, **arguments: Any) -> None:
        if width <= 0:
            raise ValueError(f"width must be positive, got {width}")
        stages = [stage._replace(channels=_round_channels(stage.channels * width)) for stage in STAGES]
        super().__init__(stages, _round_channels(32 * width), Style(F.relu, symmetric_conv2d), **arguments)


def _round_channels(channels: float) -> int:
    """The multiple of 8 nearest to `channels`, or the next one if the nearest is more than 10 % too low."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
