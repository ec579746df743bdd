"""Squeeze-and-excitation: each channel rescaled by a gate computed from all channels' means.

    x --mean over the map--> fc1 --> relu --> fc2 --> sigmoid --> (B, C, 1, 1) --> times x

Source: Hu et al. 2018, section 3; the reduction 16 reproduces the counts of Bello et al. 2019 (tables 1 and 3).
"""

from torch import Tensor, nn
from torch.nn import functional as F


class SqueezeExcite(nn.Module):
    """Rescale the channels of (B, channels, H, W).

    Args:
        reduced_channels: width of the bottleneck; None for channels / 16.
        bias: whether the two layers have biases. They do in ResNets (SE-ResNet-34 has 21.96 M parameters), but not in
            Wide-ResNets (SE-Wide-ResNet-28-10 has 36.5 M, and would have 36.6 M with biases).
    """

    def __init__(self, channels: int, reduced_channels: int | None = None, *, bias: bool = True) -> None:
        super().__init__()
        reduced_channels = reduced_channels or max(channels // 16, 1)
        self.fc1 = nn.Conv2d(channels, reduced_channels, 1, bias=bias)
        self.fc2 = nn.Conv2d(reduced_channels, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to the same shape."""
        gate = x.mean(dim=(2, 3), keepdim=True)  # (B, C, 1, 1)
        gate = F.relu(self.fc1(gate))  # (B, C / r, 1, 1)
        gate = self.fc2(gate).sigmoid()  # (B, C, 1, 1)
        return x * gate
