"""Stochastic depth: while training, a block's residual is dropped for some of the images.

Source: Huang et al. 2016. The kept residuals are scaled up, so that evaluation needs no factor.
"""

import torch
from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Zero the residual of each image with `probability` while training; do nothing in evaluation."""

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
