"""Networks of inverted residuals, plain and with attention in their 1x1 expansions: MnasNet and EfficientNet-Lite.

    image --3x3 conv /2--> stem --blocks (/32)--> last stage --1x1 conv--> 1280 --pool--> classifier

    x --1x1 expansion--> depthwise convolution /s --> squeeze-and-excitation --1x1 projection--> + x

State-dict names are timm's. Source: Sandler et al. 2018 (MobileNetV2), Bello et al. 2019, section 4.3.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aaserve.models.attention.augmentation import PLAIN, Augmentation
from aaserve.models.networks.layers import SqueezeExcite, StochasticDepth, feature_size, initialise

HEAD_CHANNELS = 1280

# As in the authors' code: PyTorch's momentum is 1 - decay, and their decay is 0.99.
EPSILON = 1e-3
_BatchNorm = partial(nn.BatchNorm2d, eps=EPSILON, momentum=0.01)


class Stage(NamedTuple):
    """Blocks of one shape; `expansion` 1 stands for the separable convolution at the start."""

    blocks: int
    kernel_size: int
    stride: int
    expansion: int
    channels: int
    squeeze_excite: bool = False


class Style(NamedTuple):
    """What differs between families.

    `conv2d` takes the arguments of nn.Conv2d except the padding, which it chooses.
    """

    activation: Callable[[Tensor], Tensor]
    conv2d: Callable[..., nn.Conv2d]


class InvertedResidualNet(nn.Module):
    """Maps (B, 3, H, W) to logits (B, num_classes).

    Args:
        stages: their strides multiply to 16.
        stem_channels: output channels of the first convolution.
        image_size: (H, W) of the input, at least 32 each; an augmented network accepts no other size.
        augmentation: the attention of the stages 2..7, in their 1x1 expansions; κ and υ refer to the expanded channels.
        least_reduction: an expansion gets attention if its input is smaller than the image by this factor; 1: any.
        stochastic_depth: probability of skipping the last block while training; linearly less for earlier ones.
        dropout: probability before the classifier.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        stem_channels: int,
        style: Style,
        *,
        num_classes: int = 1000,
        image_size: tuple[int, int] = (224, 224),
        augmentation: Augmentation = PLAIN,
        least_reduction: int = 1,
        stochastic_depth: float = 0.0,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        augmentation.check_stages(2, 3, 4, 5, 6, 7)
        feature_size(image_size, 32)  # rejects an image too small for the last stage
        self.image_size = image_size
        self.augmentation = augmentation
        self.activation = style.activation

        def expand(stage: int, reduction: int, in_channels: int, out_channels: int) -> nn.Module:
            if stage not in augmentation.augmented_stages or reduction < least_reduction:
                return nn.Conv2d(in_channels, out_channels, 1, bias=False)
            size = feature_size(image_size, 2 * reduction if stage in augmentation.pooled_stages else reduction)
            return augmentation.conv2d(in_channels, out_channels, 1, feature_size=size)

        channels = stem_channels
        self.conv_stem = style.conv2d(3, channels, 3, 2, bias=False)
        self.bn1 = _BatchNorm(channels)
        built: list[nn.Module] = []
        reduction, nth, total = 2, 0, sum(stage.blocks for stage in stages)
        for number, stage in enumerate(stages, start=1):
            blocks: list[nn.Module] = []
            for index in range(stage.blocks):
                nth += 1
                stride = stage.stride if index == 0 else 1
                if stage.expansion == 1:
                    blocks.append(SeparableConv2d(channels, stage, style))
                else:
                    block = InvertedResidual(
                        channels,
                        stage,
                        stride,
                        style,
                        partial(expand, number, reduction),
                        stochastic_depth=stochastic_depth * nth / total,
                    )
                    blocks.append(block)
                channels = stage.channels
                reduction *= stride  # after the block: its expansion comes before its stride
            built.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*built)
        self.conv_head = nn.Conv2d(channels, HEAD_CHANNELS, 1, bias=False)
        self.bn2 = _BatchNorm(HEAD_CHANNELS)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(HEAD_CHANNELS, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to logits (B, num_classes).

        Raises:
            ValueError: the network is augmented and was built for another image size.
        """
        self.augmentation.check_image_size(x, self.image_size)
        x = self.activation(self.bn1(self.conv_stem(x)))  # (B, stem, H/2, W/2)
        x = self.blocks(x)  # (B, last stage, H/32, W/32)
        x = self.activation(self.bn2(self.conv_head(x)))  # (B, 1280, H/32, W/32)
        x = x.mean(dim=(2, 3))  # (B, 1280)
        return self.classifier(self.dropout(x))  # (B, num_classes)

    def sorted_expansions(self, weights: Mapping[str, Tensor], expansions: Iterable[str]) -> dict[str, Tensor]:
        """Weights of the plain network with the channels of some expansions sorted; its outputs do not change.

        The channels that change the block's output most come first. Attention replaces the last ones, which matter
        least. The statistics of batch normalisation tell how much a channel varies.

        Args:
            expansions: names of layers, such as blocks.3.1.conv_pw.
        """
        weights = dict(weights)
        quantiles = torch.special.ndtri((torch.arange(1000) + 0.5) / 1000)[:, None]  # of the normal distribution
        for name in expansions:
            block = name.rpartition(".")[0]
            scale, shift = weights[f"{block}.bn2.weight"].abs(), weights[f"{block}.bn2.bias"]
            variation = self.activation(shift + quantiles * scale).std(dim=0)  # (expanded,)
            projection = weights[f"{block}.conv_pwl.weight"].flatten(1)  # (out, expanded)
            normalised = weights[f"{block}.bn3.weight"] * (weights[f"{block}.bn3.running_var"] + EPSILON).rsqrt()
            matters = variation * (projection * normalised[:, None]).norm(dim=0)
            order = matters.argsort(descending=True)
            for layer in ("conv_pw", "bn1", "conv_dw", "bn2"):
                for key in [key for key in weights if key.startswith(f"{block}.{layer}.")]:
                    if weights[key].ndim:  # skips the counter of batches
                        weights[key] = weights[key][order]
            weights[f"{block}.conv_pwl.weight"] = weights[f"{block}.conv_pwl.weight"][:, order]
        return weights

    def expansion_inputs(self, weights: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and standard deviation of each expansion's input, (in,) each, by the layer's name.

        They come from batch normalisation. Along shortcuts, means and variances add up, as for independent features.

        Args:
            weights: those of the plain or the augmented network.
        """
        found: dict[str, tuple[Tensor, Tensor]] = {}
        mean = variance = torch.zeros(())
        for name, block in self.blocks.named_modules(prefix="blocks"):
            if isinstance(block, InvertedResidual):
                found[f"{name}.conv_pw"] = mean, variance.sqrt()
            elif not isinstance(block, SeparableConv2d):
                continue
            last = f"{name}.{'bn3' if isinstance(block, InvertedResidual) else 'bn2'}"
            shortcut = isinstance(block, InvertedResidual) and block.has_shortcut
            mean = weights[f"{last}.bias"] + (mean if shortcut else 0)
            variance = weights[f"{last}.weight"].square() + (variance if shortcut else 0)
        return found


class SeparableConv2d(nn.Module):
    """Depthwise, then pointwise convolution: the first block. It has neither expansion nor shortcut."""

    def __init__(self, in_channels: int, stage: Stage, style: Style) -> None:
        super().__init__()
        self.conv_dw = style.conv2d(in_channels, in_channels, stage.kernel_size, groups=in_channels, bias=False)
        self.bn1 = _BatchNorm(in_channels)
        self.conv_pw = nn.Conv2d(in_channels, stage.channels, 1, bias=False)
        self.bn2 = _BatchNorm(stage.channels)
        self.activation = style.activation

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, H, W)."""
        x = self.activation(self.bn1(self.conv_dw(x)))
        return self.bn2(self.conv_pw(x))  # (B, out, H, W)


class InvertedResidual(nn.Module):
    """1x1 expansion (the augmented one), depthwise convolution, squeeze-and-excitation, 1x1 projection."""

    def __init__(
        self,
        in_channels: int,
        stage: Stage,
        stride: int,
        style: Style,
        expand: Callable[[int, int], nn.Module],
        *,
        stochastic_depth: float,
    ) -> None:
        super().__init__()
        expanded = in_channels * stage.expansion
        self.conv_pw = expand(in_channels, expanded)
        self.bn1 = _BatchNorm(expanded)
        self.conv_dw = style.conv2d(expanded, expanded, stage.kernel_size, stride, groups=expanded, bias=False)
        self.bn2 = _BatchNorm(expanded)
        # The bottleneck is a quarter of the block's input, not of its expansion.
        self.se = SqueezeExcite(expanded, in_channels // 4) if stage.squeeze_excite else nn.Identity()
        self.conv_pwl = nn.Conv2d(expanded, stage.channels, 1, bias=False)
        self.bn3 = _BatchNorm(stage.channels)
        self.has_shortcut = stride == 1 and in_channels == stage.channels
        self.stochastic_depth = StochasticDepth(stochastic_depth if self.has_shortcut else 0.0)
        self.activation = style.activation

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, ceil(H / stride), ceil(W / stride))."""
        residual = self.activation(self.bn1(self.conv_pw(x)))  # (B, expanded, H, W)
        residual = self.se(self.activation(self.bn2(self.conv_dw(residual))))  # (B, expanded, H/s, W/s)
        residual = self.stochastic_depth(self.bn3(self.conv_pwl(residual)))  # (B, out, H/s, W/s)
        return x + residual if self.has_shortcut else residual


def symmetric_conv2d(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, *, groups: int = 1, bias: bool = True
) -> nn.Conv2d:
    """A convolution with the same padding on both sides, as in PyTorch's networks; `kernel_size` is odd."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=bias)


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: the output has ceil(size / stride); an odd pixel is added last.

    With a stride of 2 and even sizes, TensorFlow pads less at the top and left than PyTorch's networks.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, ceil(H / stride), ceil(W / stride))."""
        top, bottom = _same_padding(x.shape[-2], self.kernel_size[0], self.stride[0])
        left, right = _same_padding(x.shape[-1], self.kernel_size[1], self.stride[1])
        if (top, left) == (bottom, right):
            return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), self.dilation, self.groups)
        return super().forward(F.pad(x, (left, right, top, bottom)))


def _same_padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Pixels before and after."""
    padding = max((-(-size // stride) - 1) * stride + kernel_size - size, 0)
    return padding // 2, padding - padding // 2
