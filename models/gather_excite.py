"""Gather-excite without parameters: each channel rescaled by a gate that is its own mean.

    x --mean over the map--> sigmoid --> (B, C, 1, 1) --> times x

Source: Hu et al. 2018, "Gather-Excite", the variant θ⁻ that Bello et al. 2019 compare with (table 1: "parameter-less").
They do not state the extent. Here it is global: the whole map is one region.
"""

from torch import Tensor, nn


class GatherExcite(nn.Module):
    """Rescale the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        gate = x.mean(dim=(2, 3), keepdim=True).sigmoid()  # (B, C, 1, 1)
        return x * gate
