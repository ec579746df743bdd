"""Feature pyramid: maps of one depth at strides of 8, 16, 32 and more, each with the meaning of those above.

    C5 --1x1------------------> + --3x3--> P5 --3x3 /2--> P6 --relu, 3x3 /2--> P7
    C4 --1x1--> + <--doubled---'  --3x3--> P4
    C3 --1x1--> + <--doubled---'  --3x3--> P3

Sources: Lin et al. 2017, "Feature Pyramid Networks"; Lin et al. 2017, "Focal Loss", section 4, for P6 and P7. P6 comes
from P5 and not from C5, which the parameter counts of Bello et al. 2019 imply (docs/networks.md).
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

FIRST_LEVEL = 3


class FeaturePyramid(nn.Module):
    """Map C3, C4, C5 to P3, P4, … of `channels` each.

    Args:
        in_channels: of C3, C4 and C5.
        levels: how many maps; those after P5 are made by convolutions of stride 2.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, levels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(count, channels, 1) for count in in_channels)
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        self.extra = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(levels - len(in_channels))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map (B, C, H, W) of decreasing size to as many maps (B, channels, H, W) as there are levels."""
        maps = [lateral(x) for lateral, x in zip(self.lateral, features, strict=True)]
        for index in range(len(maps) - 2, -1, -1):
            maps[index] = maps[index] + _doubled(maps[index + 1], maps[index])
        maps = [output(x) for output, x in zip(self.output, maps, strict=True)]
        for index, extra in enumerate(self.extra):
            maps.append(extra(F.relu(maps[-1]) if index else maps[-1]))
        return maps


def _doubled(x: Tensor, like: Tensor) -> Tensor:
    """Each pixel four times, to the size of `like`, which the last row and column may exceed by one."""
    height, width = like.shape[-2:]
    x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    return x if x.shape[-2:] == (height, width) else x[..., :height, :width]
