"""Random crops and flips of a whole batch at once."""

import torch
from torch import Tensor
from torch.nn import functional as F

from training.recipe import Augmentation


def augment(images: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Shift each image of (B, C, H, W) by up to `crop_padding` pixels, zeros coming in, and mirror half of them."""
    batch, _, height, width = images.shape
    padding = augmentation.crop_padding
    padded = F.pad(images, (padding,) * 4)  # (B, C, H + 2p, W + 2p)
    top, left = torch.randint(0, 2 * padding + 1, (2, batch, 1), generator=generator)  # (B, 1) each
    rows = top + torch.arange(height)  # (B, H)
    columns = left + torch.arange(width)  # (B, W)
    if augmentation.horizontal_flip:
        mirrored = torch.rand(batch, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    picked = padded.permute(0, 2, 3, 1)[torch.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)  # (B, C, H, W), channels last in memory
