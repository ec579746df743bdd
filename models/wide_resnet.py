"""Wide residual networks for 32x32 images, plain and attention-augmented.

    image --conv--> 16 --stage 1--> 16k --stage 2 (/2)--> 32k --stage 3 (/4)--> 64k --norm, relu, pool--> fc

Sources: Zagoruyko & Komodakis 2016 (pre-activation blocks of two 3x3 convolutions, depth = 6n + 4); Bello et al. 2019,
section 4.1 (the first convolution of a block is the augmented one; shortcuts without parameters, which its count of
36.3 M for Wide-ResNet-28-10 implies).
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import AttentionAugmentedConv2d


class WideResNet(nn.Module):
    """Wide-ResNet-`depth`-`width`; maps (B, 3, H, W) to logits (B, num_classes).

    Args:
        depth: 6n + 4; n blocks in each of the three stages.
        width: k, the factor on the stages' 16, 32 and 64 channels.
        image_size: (H, W) of the input, multiples of 4; the attention's embeddings fix it.
        augmented_stages: which of the stages 1, 2, 3 use attention; empty for the plain network.
        kappa: κ, key depth over output channels (paper: 0.2).
        upsilon: υ, value depth over output channels (paper: 0.1).
        num_heads: Nh (paper: 8).
        min_key_channels_per_head: floor of the key depth (paper: 20).
    """

    def __init__(
        self,
        depth: int,
        width: int,
        *,
        num_classes: int = 100,
        image_size: tuple[int, int] = (32, 32),
        augmented_stages: Sequence[int] = (),
        kappa: float = 0.2,
        upsilon: float = 0.1,
        num_heads: int = 8,
        min_key_channels_per_head: int = 20,
        position: str = "relative",
    ) -> None:
        super().__init__()
        if (depth - 4) % 6 or depth < 10:
            raise ValueError(f"depth must be 6n + 4 (10, 16, 22, 28, …), got {depth}")
        if any(size % 4 for size in image_size):
            raise ValueError(f"image_size must be multiples of 4, got {image_size}")
        if not set(augmented_stages) <= {1, 2, 3}:
            raise ValueError(f"augmented_stages must be among 1, 2, 3, got {tuple(augmented_stages)}")

        def conv3x3(stage: int, in_channels: int, out_channels: int, stride: int) -> nn.Module:
            if stage not in augmented_stages:
                return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
            value_channels = _multiple(upsilon * out_channels, num_heads)
            key_channels = max(_multiple(kappa * out_channels, num_heads), min_key_channels_per_head * num_heads)
            scale = 2 ** (stage - 1)
            return AttentionAugmentedConv2d(
                in_channels,
                out_channels,
                3,
                key_channels=key_channels,
                value_channels=value_channels,
                num_heads=num_heads,
                feature_size=(image_size[0] // scale, image_size[1] // scale),
                stride=stride,
                position=position,
            )

        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        channels = 16
        for stage in (1, 2, 3):
            blocks = []
            for index in range((depth - 4) // 6):
                stride = 2 if stage > 1 and index == 0 else 1
                out_channels = 16 * width * 2 ** (stage - 1)
                conv1 = conv3x3(stage, channels, out_channels, stride)
                blocks.append(WideBlock(channels, out_channels, stride, conv1))
                channels = out_channels
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)  # (B, 16, H, W)
        x = self.layer1(x)  # (B, 16k, H, W)
        x = self.layer2(x)  # (B, 32k, H/2, W/2)
        x = self.layer3(x)  # (B, 64k, H/4, W/4)
        x = F.relu(self.bn(x)).mean(dim=(2, 3))  # (B, 64k)
        return self.fc(x)


class WideBlock(nn.Module):
    """Pre-activation residual block; `conv1` carries the stride and, in augmented stages, the attention."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, conv1: nn.Module) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv1
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.stride = stride
        self.new_channels = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv1(F.relu(self.bn1(x)))
        residual = self.conv2(F.relu(self.bn2(residual)))
        return self._shortcut(x) + residual

    def _shortcut(self, x: Tensor) -> Tensor:
        """Average pooling and zero channels instead of a projection, so that the shortcut has no parameters."""
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride)
        if self.new_channels:
            before = self.new_channels // 2
            x = F.pad(x, (0, 0, 0, 0, before, self.new_channels - before))
        return x


def _multiple(value: float, of: int) -> int:
    """`value` rounded down to a multiple of `of`, at least one."""
    return max(int(value) // of, 1) * of


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
