"""Wide residual networks for 32x32 images, plain and attention-augmented.

    image --conv--> 16 --stage 1--> 16k --stage 2 (/2)--> 32k --stage 3 (/4)--> 64k --norm, relu, pool--> fc

Sources: Zagoruyko & Komodakis 2016 (pre-activation blocks of two 3x3 convolutions, depth = 6n + 4); Bello et al. 2019,
section 4.1 (the first convolution of a block is the augmented one, attention runs at the stage's full resolution;
shortcuts without parameters, which its count of 36.3 M for Wide-ResNet-28-10 implies). Its 36.2 M for the augmented
network is not reproduced: twelve augmented blocks have 36,054,100 parameters.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from aaserve.models.attention.augmentation import PLAIN, Augmentation
from aaserve.models.networks.layers import StochasticDepth, feature_size, initialise


class WideResNet(nn.Module):
    """Wide-ResNet-`depth`-`width`; maps (B, 3, H, W) to logits (B, num_classes).

    Args:
        depth: 6n + 4; n blocks in each of the three stages.
        width: k, the factor on the stages' 16, 32 and 64 channels.
        image_size: (H, W) of the input, multiples of 4; an augmented network accepts no other size.
        augmentation: the attention of the stages 1, 2, 3, in the first convolution of each block.
        excite: builds, from a number of channels, the layer that rescales a residual (SqueezeExcite, GatherExcite).
        stochastic_depth: probability of skipping the last block while training; linearly less for earlier ones.
        dropout: probability between a block's two convolutions.

    Raises:
        ValueError: an argument out of its range.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(
        self,
        depth: int,
        width: int,
        *,
        num_classes: int = 100,
        image_size: tuple[int, int] = (32, 32),
        augmentation: Augmentation = PLAIN,
        excite: Callable[[int], nn.Module] = nn.Identity,
        stochastic_depth: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if (depth - 4) % 6 or depth < 10:
            raise ValueError(f"depth must be 6n + 4 (10, 16, 22, 28, …), got {depth}")
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        if min(image_size) < 4 or any(size % 4 for size in image_size):
            raise ValueError(f"image_size must be multiples of 4, got {image_size}")
        augmentation.check_stages(1, 2, 3)
        self.image_size = image_size
        self.augmentation = augmentation

        def conv3x3(stage: int, in_channels: int, out_channels: int, stride: int) -> nn.Module:
            if stage not in augmentation.augmented_stages:
                return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
            size = feature_size(image_size, 2 ** (stage - 1 + (stage in augmentation.pooled_stages)))
            return augmentation.conv2d(in_channels, out_channels, 3, feature_size=size, stride=stride)

        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        channels = 16
        blocks_per_stage = (depth - 4) // 6
        for stage in (1, 2, 3):
            blocks = []
            for index in range(blocks_per_stage):
                stride = 2 if stage > 1 and index == 0 else 1
                out_channels = 16 * width * 2 ** (stage - 1)
                nth = (stage - 1) * blocks_per_stage + index + 1
                block = WideBlock(
                    channels,
                    out_channels,
                    stride,
                    partial(conv3x3, stage),
                    excite=excite,
                    stochastic_depth=stochastic_depth * nth / (3 * blocks_per_stage),
                    dropout=dropout,
                )
                blocks.append(block)
                channels = out_channels
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to logits (B, num_classes).

        Raises:
            ValueError: the network is augmented and was built for another image size.
        """
        self.augmentation.check_image_size(x, self.image_size)
        x = self.conv1(x)  # (B, 16, H, W)
        x = self.layer1(x)  # (B, 16k, H, W)
        x = self.layer2(x)  # (B, 32k, H/2, W/2)
        x = self.layer3(x)  # (B, 64k, H/4, W/4)
        x = F.relu(self.bn(x)).mean(dim=(2, 3))  # (B, 64k)
        return self.fc(x)  # (B, num_classes)


class WideBlock(nn.Module):
    """Pre-activation residual block; `conv1` carries the stride and, in augmented stages, the attention."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        conv3x3: Callable[[int, int, int], nn.Module],
        *,
        excite: Callable[[int], nn.Module],
        stochastic_depth: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.se = excite(out_channels)
        self.stochastic_depth = StochasticDepth(stochastic_depth)
        self.stride = stride
        self.new_channels = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, H / stride, W / stride)."""
        residual = self.conv1(F.relu(self.bn1(x)))  # (B, out, H/s, W/s)
        residual = self.conv2(self.dropout(F.relu(self.bn2(residual))))
        return self._shortcut(x) + self.stochastic_depth(self.se(residual))

    def _shortcut(self, x: Tensor) -> Tensor:
        """Average pooling and zero channels instead of a projection, so that the shortcut has no parameters."""
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride)  # (B, in, H/s, W/s)
        if self.new_channels:
            before = self.new_channels // 2
            x = F.pad(x, (0, 0, 0, 0, before, self.new_channels - before))  # (B, out, H/s, W/s)
        return x
