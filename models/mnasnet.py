"""MnasNet-A1, plain and attention-augmented.

    image --3x3 conv /2--> 32 --blocks.0 .. blocks.6 (/32)--> 320 --1x1 conv--> 1280 --pool--> classifier

Sources: Tan et al. 2019, figure 7a and the authors' own code (widths rounded to multiples of 8, head always 1280);
Bello et al. 2019, section 4.3: the 1x1 expansions of the last thirteen blocks are augmented, without a minimum key
depth, those of the first augmented stage at half their resolution. A1 is the MnasNet with squeeze-and-excitation,
whose 3.89 M parameters the paper quotes; torchvision's MNASNet is the variant B1. State-dict names are those of timm's
`semnasnet`, except that its `se.conv_reduce` and `se.conv_expand` are `se.fc1` and `se.fc2` here.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from aaserve.models.augmentation import PLAIN, Augmentation
from aaserve.models.feature_size import feature_size
from aaserve.models.initialisation import initialise
from aaserve.models.squeeze_excite import SqueezeExcite
from aaserve.models.stochastic_depth import StochasticDepth

# As in the authors' code: PyTorch's momentum is 1 - decay, and their decay is 0.99.
_BatchNorm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)


class Stage(NamedTuple):
    """A row of figure 7a; `expansion` 1 stands for the separable convolution at the start."""

    blocks: int
    kernel_size: int
    stride: int
    expansion: int
    channels: int
    squeeze_excite: bool


STAGES = (
    Stage(1, 3, 1, 1, 16, False),
    Stage(2, 3, 2, 6, 24, False),
    Stage(3, 5, 2, 3, 40, True),
    Stage(4, 3, 2, 6, 80, False),
    Stage(2, 3, 1, 6, 112, True),
    Stage(3, 5, 2, 6, 160, True),
    Stage(1, 3, 1, 6, 320, False),
)


class MnasNet(nn.Module):
    """MnasNet-A1 of a `width`; maps (B, 3, H, W) to logits (B, num_classes).

    Args:
        width: factor on all channels but the head's (paper: 0.75, 1, 1.25, 1.4).
        image_size: (H, W) of the input, at least 32 each; an augmented network takes no other.
        augmentation: the attention of the stages 2..7, in their 1x1 expansions; κ and υ refer to the expanded channels.
        stochastic_depth: probability of skipping the last block while training; linearly less for earlier ones.
        dropout: probability before the classifier (the authors' code: 0.2).

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        width: float,
        *,
        num_classes: int = 1000,
        image_size: tuple[int, int] = (224, 224),
        augmentation: Augmentation = PLAIN,
        stochastic_depth: float = 0.0,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if width <= 0:
            raise ValueError(f"width must be positive, got {width}")
        augmentation.check_stages(2, 3, 4, 5, 6, 7)
        feature_size(image_size, 32)  # rejects an image too small for the last stage
        self.image_size = image_size
        self.augmentation = augmentation

        def expand(stage: int, reduction: int, in_channels: int, out_channels: int) -> nn.Module:
            if stage not in augmentation.augmented_stages:
                return nn.Conv2d(in_channels, out_channels, 1, bias=False)
            size = feature_size(image_size, 2 * reduction if stage in augmentation.pooled_stages else reduction)
            return augmentation.conv2d(in_channels, out_channels, 1, feature_size=size)

        channels = _round_channels(32 * width)
        self.conv_stem = nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = _BatchNorm(channels)
        stages: list[nn.Module] = []
        reduction, nth, total = 2, 0, sum(stage.blocks for stage in STAGES)
        for number, stage in enumerate(STAGES, start=1):
            blocks: list[nn.Module] = []
            out_channels = _round_channels(stage.channels * width)
            for index in range(stage.blocks):
                nth += 1
                stride = stage.stride if index == 0 else 1
                if stage.expansion == 1:
                    blocks.append(SeparableConv2d(channels, out_channels, stage.kernel_size))
                else:
                    block = InvertedResidual(
                        channels,
                        out_channels,
                        stage,
                        stride,
                        partial(expand, number, reduction),
                        stochastic_depth=stochastic_depth * nth / total,
                    )
                    blocks.append(block)
                channels = out_channels
                reduction *= stride  # after the block, whose expansion comes before its stride
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = nn.Conv2d(channels, 1280, 1, bias=False)
        self.bn2 = _BatchNorm(1280)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(1280, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to logits (B, num_classes).

        Raises:
            ValueError: the network is augmented and was built for another image size.
        """
        if self.augmentation.augmented_stages and tuple(x.shape[-2:]) != self.image_size:
            raise ValueError(f"built for images of {self.image_size}, got {tuple(x.shape[-2:])}")
        x = F.relu(self.bn1(self.conv_stem(x)))  # (B, 32 * width, H/2, W/2)
        x = self.blocks(x)  # (B, 320 * width, H/32, W/32)
        x = F.relu(self.bn2(self.conv_head(x)))  # (B, 1280, H/32, W/32)
        x = x.mean(dim=(2, 3))  # (B, 1280)
        return self.classifier(self.dropout(x))  # (B, num_classes)


class SeparableConv2d(nn.Module):
    """Depthwise, then pointwise convolution: the first block, which has neither expansion nor shortcut."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(
            in_channels, in_channels, kernel_size, padding=kernel_size // 2, groups=in_channels, bias=False
        )
        self.bn1 = _BatchNorm(in_channels)
        self.conv_pw = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = _BatchNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, H, W)."""
        x = F.relu(self.bn1(self.conv_dw(x)))
        return self.bn2(self.conv_pw(x))  # (B, out, H, W)


class InvertedResidual(nn.Module):
    """1x1 expansion (the augmented one), depthwise convolution, squeeze-and-excitation, 1x1 projection."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stage: Stage,
        stride: int,
        expand: Callable[[int, int], nn.Module],
        *,
        stochastic_depth: float,
    ) -> None:
        super().__init__()
        expanded = in_channels * stage.expansion
        self.conv_pw = expand(in_channels, expanded)
        self.bn1 = _BatchNorm(expanded)
        padding = stage.kernel_size // 2
        self.conv_dw = nn.Conv2d(
            expanded, expanded, stage.kernel_size, stride, padding=padding, groups=expanded, bias=False
        )
        self.bn2 = _BatchNorm(expanded)
        # The bottleneck is a quarter of the block's input, not of its expansion.
        self.se = SqueezeExcite(expanded, in_channels // 4) if stage.squeeze_excite else nn.Identity()
        self.conv_pwl = nn.Conv2d(expanded, out_channels, 1, bias=False)
        self.bn3 = _BatchNorm(out_channels)
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.stochastic_depth = StochasticDepth(stochastic_depth if self.has_shortcut else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, ceil(H / stride), ceil(W / stride))."""
        residual = F.relu(self.bn1(self.conv_pw(x)))  # (B, expanded, H, W)
        residual = self.se(F.relu(self.bn2(self.conv_dw(residual))))  # (B, expanded, H/s, W/s)
        residual = self.stochastic_depth(self.bn3(self.conv_pwl(residual)))  # (B, out, H/s, W/s)
        return x + residual if self.has_shortcut else residual


def _round_channels(channels: float) -> int:
    """The multiple of 8 nearest to `channels`, or the next one if that is more than a tenth too low."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
