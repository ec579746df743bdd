"""RetinaNet: a ResNet, a feature pyramid, and two heads that every level shares.

    (B, 3, H, W) --backbone--> C3, C4, C5 --pyramid--> P3 … P7 --class head--> logits of each anchor  (B, A, K)
                                                               --box head----> offsets from each anchor (B, A, 4)

Sources: Lin et al. 2017, "Focal Loss for Dense Object Detection"; Bello et al. 2019, section 4.3: attention is in the
backbone alone.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from aaserve.models.attention.augmentation import PLAIN, Augmentation
from aaserve.models.networks.resnet import ResNet
from aaserve.models.networks.retinanet.anchors import RATIOS, make_anchors
from aaserve.models.networks.retinanet.pyramid import FIRST_LEVEL, FeaturePyramid

PRIOR = 0.01  # probability of each class at each anchor before training (Lin et al. 2017, section 4.1)
GROUP = 8  # channels of a group of GroupNorm


class RetinaNet(nn.Module):
    """Maps pictures (B, 3, H, W) to class logits (B, A, num_classes) and box offsets (B, A, 4) of A anchors.

    The names of the backbone's weights are those of the classification network, behind `backbone.`.

    Args:
        depth: of the backbone, as are `width`, `augmentation`, `excite` and `stochastic_depth`; see ResNet.
        image_size: (H, W) of the input, at least 32 each; the network takes no other.
        channels: of the pyramid and of the heads.
        levels: maps of the pyramid, from P3 on.
        head_convolutions: 3x3 convolutions in each head before its last one.
        anchor_base: side of the smallest square anchor over the stride of its level.
        anchor_scales: sizes of anchors an octave; each has three shapes.
        head_norm: "none", or "group" for GroupNorm after each convolution of the heads but the last.

    Attributes:
        anchors: (A, 4) left, top, right, bottom in pixels of the input; not in the state dict.

    Raises:
        ValueError: an argument out of its range.
    """

    anchors: Tensor

    def __init__(
        self,
        depth: int,
        *,
        num_classes: int = 80,
        image_size: tuple[int, int] = (640, 640),
        width: int = 64,
        augmentation: Augmentation = PLAIN,
        excite: Callable[[int], nn.Module] = nn.Identity,
        stochastic_depth: float = 0.0,
        channels: int = 256,
        levels: int = 5,
        head_convolutions: int = 4,
        anchor_base: float = 4.0,
        anchor_scales: int = 3,
        head_norm: str = "none",
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("channels", channels, 1),
            ("levels", levels, 3),
            ("head_convolutions", head_convolutions, 0),
            ("anchor_scales", anchor_scales, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if anchor_base <= 0:
            raise ValueError(f"anchor_base must be above 0, got {anchor_base}")
        if head_norm not in ("none", "group"):
            raise ValueError(f"head_norm must be none or group, got {head_norm!r}")
        if head_norm == "group" and channels % GROUP:
            raise ValueError(f"channels must be a multiple of {GROUP} for GroupNorm, got {channels}")
        self.image_size = image_size
        self.num_classes = num_classes
        self.augmentation = augmentation
        self.backbone = ResNet(
            depth,
            num_classes=0,
            width=width,
            image_size=image_size,
            augmentation=augmentation,
            excite=excite,
            stochastic_depth=stochastic_depth,
        )
        self.pyramid = FeaturePyramid(self.backbone.feature_channels, channels, levels)
        each = anchor_scales * len(RATIOS)
        self.class_head = _head(channels, head_convolutions, each * num_classes, head_norm)
        self.box_head = _head(channels, head_convolutions, each * 4, head_norm)
        nn.init.constant_(self.class_head[-1].bias, -math.log((1 - PRIOR) / PRIOR))
        exponents = range(FIRST_LEVEL, FIRST_LEVEL + levels)
        anchors = make_anchors(image_size, exponents, base=anchor_base, scales=anchor_scales)
        self.register_buffer("anchors", anchors, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, 3, H, W) to class logits (B, A, num_classes) and box offsets (B, A, 4), in the order of `anchors`.

        Raises:
            ValueError: built for another image size.
        """
        if tuple(x.shape[-2:]) != self.image_size:
            raise ValueError(f"built for images of {self.image_size}, got {tuple(x.shape[-2:])}")
        maps = self.pyramid(self.backbone.features(x))
        class_logits = [_by_anchor(self.class_head(level), self.num_classes) for level in maps]
        box_deltas = [_by_anchor(self.box_head(level), 4) for level in maps]
        return torch.cat(class_logits, dim=1), torch.cat(box_deltas, dim=1)


def _head(channels: int, convolutions: int, out_channels: int, norm: str) -> nn.Sequential:
    """3x3 convolutions; as in Lin et al. 2017, all begin with a deviation of 0.01."""
    layers: list[nn.Module] = []
    for _ in range(convolutions):
        layers.append(nn.Conv2d(channels, channels, 3, padding=1))
        if norm == "group":
            layers.append(nn.GroupNorm(channels // GROUP, channels))
        layers.append(nn.ReLU())
    layers.append(nn.Conv2d(channels, out_channels, 3, padding=1))
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def _by_anchor(x: Tensor, values: int) -> Tensor:
    """(B, anchors of a position * values, H, W) to (B, H * W * anchors of a position, values)."""
    return x.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, values))
