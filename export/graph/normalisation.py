"""Add the normalisation to the network, so that the graph takes uint8 pixels."""

import torch
from torch import Tensor, nn

from aaserve.bundle.preprocessing import Preprocessing


class PixelInput(nn.Module):
    """Maps uint8 pixels (B, H, W, 3) to the outputs of `network` for the normalised pixels.

    The input then has a quarter of the bytes of float32, and the service does not normalise or transpose.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        std = torch.tensor(preprocessing.std, dtype=torch.float64)
        mean = torch.tensor(preprocessing.mean, dtype=torch.float64)
        self.register_buffer("scale", (1 / (255 * std)).float().reshape(3, 1, 1))
        self.register_buffer("shift", (-mean / std).float().reshape(3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Map uint8 (B, H, W, 3) to logits (B, num_classes)."""
        x = pixels.permute(0, 3, 1, 2).float()  # (B, 3, H, W)
        return self.network(x * self.scale + self.shift)
