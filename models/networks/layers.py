"""Layers that several networks share, and what they have in common when they are built."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation: each channel rescaled by a gate computed from all channels' means.

        x --mean over the map--> fc1 --> relu --> fc2 --> sigmoid --> (B, C, 1, 1) --> times x

    Source: Hu et al. 2018, section 3; the reduction 16 reproduces the counts of Bello et al. 2019 (tables 1 and 3).

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


class GatherExcite(nn.Module):
    """Gather-excite without parameters: each channel rescaled by a gate that is its own mean.

        x --mean over the map--> sigmoid --> (B, C, 1, 1) --> times x

    Source: Hu et al. 2018, "Gather-Excite", the variant θ⁻ that Bello et al. 2019 compare with (table 1:
    "parameter-less"). They do not state the extent. Here it is global: the whole map is one region.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        gate = x.mean(dim=(2, 3), keepdim=True).sigmoid()  # (B, C, 1, 1)
        return x * gate


class StochasticDepth(nn.Module):
    """Zero the residual of each image with `probability` while training; do nothing in evaluation.

    Source: Huang et al. 2016. The kept residuals are scaled up, so that evaluation needs no factor.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"stochastic_depth must be a probability below 1, got {probability}")
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        kept = torch.empty(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(keep)  # (B, 1, 1, 1)
        return x * kept / keep


def feature_size(image_size: tuple[int, int], reduction: int) -> tuple[int, int]:
    """(H, W) of the feature map after strides that multiply to `reduction`, each rounding up.

    Raises:
        ValueError: a side of the image is shorter than `reduction`.
    """
    height, width = image_size
    if min(height, width) < reduction:
        raise ValueError(
            f"image_size must be at least {reduction} x {reduction}, since the network reduces it by {reduction}, "
            f"got {height} x {width}"
        )
    return -(-height // reduction), -(-width // reduction)


def initialise(network: nn.Module) -> None:
    """Draw convolutions from He et al. 2015's normal distribution (fan-out); the rest keeps PyTorch's defaults."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
