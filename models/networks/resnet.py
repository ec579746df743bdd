"""ResNets for ImageNet, plain, squeeze-and-excitation and attention-augmented.

    image --7x7 conv /2, max-pool /2--> 64 --layer1 (/4)--> layer2 (/8)--> layer3 (/16)--> layer4 (/32)--pool--> fc

Sources: He et al. 2016, in the form "v1.5" (a bottleneck's stride is on its 3x3, which the paper's 8.2 GFLOPs for
ResNet-50 imply); Bello et al. 2019, section 4.2: the 3x3 convolutions of the last three stages are augmented, in
ResNet-34 the first of each block, and likewise in ResNet-18, which is not in the paper; attention of the first
augmented stage runs at half its resolution. State-dict names are torchvision's, and `se.fc1`, `se.fc2` are timm's.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from aaserve.models.attention.augmentation import PLAIN, Augmentation
from aaserve.models.networks.layers import StochasticDepth, feature_size, initialise

Conv3x3 = Callable[[int, int, int], nn.Module]  # input channels, output channels, stride


class ResNet(nn.Module):
    """ResNet-`depth`; maps (B, 3, H, W) to logits (B, num_classes).

    Args:
        depth: 10, 18, 34 (basic blocks), 50, 101 or 152 (bottlenecks).
        num_classes: size of the head; 0 for no head: `forward` then returns the means of the last feature map.
        width: channels of the stem and of stage 1; each later stage doubles them.
        image_size: (H, W) of the input, at least 32 each; an augmented network accepts no other size.
        augmentation: the attention of the stages 1..4, in their 3x3 convolutions.
        excite: builds, from a number of channels, the layer that rescales a residual (SqueezeExcite).
        stochastic_depth: probability of skipping the last block while training; linearly less for earlier ones.
        dropout: probability before the head.

    Raises:
        ValueError: an argument out of its range.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        depth: int,
        *,
        num_classes: int = 1000,
        width: int = 64,
        image_size: tuple[int, int] = (224, 224),
        augmentation: Augmentation = PLAIN,
        excite: Callable[[int], nn.Module] = nn.Identity,
        stochastic_depth: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if depth not in _BLOCKS:
            raise ValueError(f"depth must be one of {', '.join(map(str, _BLOCKS))}, got {depth}")
        augmentation.check_stages(1, 2, 3, 4)
        feature_size(image_size, 32)  # rejects an image too small for layer4
        self.image_size = image_size
        self.augmentation = augmentation
        block_class, counts = _BLOCKS[depth]

        def conv3x3(stage: int, in_channels: int, out_channels: int, stride: int) -> nn.Module:
            if stage not in augmentation.augmented_stages:
                return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
            size = feature_size(image_size, 2 ** (stage + 1 + (stage in augmentation.pooled_stages)))
            return augmentation.conv2d(in_channels, out_channels, 3, feature_size=size, stride=stride)

        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels, nth, stage_channels = width, 0, []
        for stage, count in enumerate(counts, start=1):
            stage_width = width * 2 ** (stage - 1)
            blocks = []
            for index in range(count):
                nth += 1
                block = block_class(
                    channels,
                    stage_width,
                    2 if stage > 1 and index == 0 else 1,
                    partial(conv3x3, stage),
                    excite=excite,
                    stochastic_depth=stochastic_depth * nth / sum(counts),
                )
                blocks.append(block)
                channels = stage_width * block_class.expansion
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            stage_channels.append(channels)
        self.feature_channels = tuple(stage_channels[1:])  # of the maps that `features` returns
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes) if num_classes else nn.Identity()
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to logits (B, num_classes).

        Raises:
            ValueError: the network is augmented and was built for another image size.
        """
        *_, x = self.features(x)  # (B, 8we, H/32, W/32), w the width, e the block's expansion
        x = x.mean(dim=(2, 3))  # (B, 8we)
        return self.fc(self.dropout(x))  # (B, num_classes)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (B, 3, H, W) to the outputs of stages 2, 3 and 4, at 1/8, 1/16 and 1/32 of the size, rounded up.

        Raises:
            ValueError: the network is augmented and was built for another image size.
        """
        self.augmentation.check_image_size(x, self.image_size)
        x = F.relu(self.bn1(self.conv1(x)))  # (B, w, H/2, W/2)
        x = F.max_pool2d(x, 3, stride=2, padding=1)  # (B, w, H/4, W/4)
        x = self.layer1(x)  # (B, we, H/4, W/4)
        c3 = self.layer2(x)  # (B, 2we, H/8, W/8)
        c4 = self.layer3(c3)  # (B, 4we, H/16, W/16)
        return c3, c4, self.layer4(c4)  # (B, 8we, H/32, W/32)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the first carries the stride and, in augmented stages, the attention."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        conv3x3: Conv3x3,
        *,
        excite: Callable[[int], nn.Module],
        stochastic_depth: float,
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.se = excite(width)
        self.stochastic_depth = StochasticDepth(stochastic_depth)
        self.downsample = _shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, width, H / stride, W / stride)."""
        residual = F.relu(self.bn1(self.conv1(x)))  # (B, width, H/s, W/s)
        residual = self.bn2(self.conv2(residual))
        return F.relu(self.downsample(x) + self.stochastic_depth(self.se(residual)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1; the 3x3 carries the stride and, in augmented stages, the attention."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        conv3x3: Conv3x3,
        *,
        excite: Callable[[int], nn.Module],
        stochastic_depth: float,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.se = excite(4 * width)
        self.stochastic_depth = StochasticDepth(stochastic_depth)
        self.downsample = _shortcut(in_channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, 4 * width, H / stride, W / stride)."""
        residual = F.relu(self.bn1(self.conv1(x)))  # (B, width, H, W)
        residual = F.relu(self.bn2(self.conv2(residual)))  # (B, width, H/s, W/s)
        residual = self.bn3(self.conv3(residual))  # (B, 4 * width, H/s, W/s)
        return F.relu(self.downsample(x) + self.stochastic_depth(self.se(residual)))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )


# Depth --> block, and number of blocks in each stage.
_BLOCKS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    10: (BasicBlock, (1, 1, 1, 1)),
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
