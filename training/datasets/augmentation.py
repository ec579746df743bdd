"""Pixels --> randomly varied inputs of the network, a whole batch at once on the device.

    uint8 (B, H, W, 3) --normalise--> --crop, mirror--> float32 (B, 3, H, W)

Random numbers are a table with a row for each image. So a batch is augmented in the same way on every device and with
any number of processes.
"""

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from aaserve.bundle.preprocessing import Preprocessing
from aaserve.training.recipe import Augmentation

DRAWS_PER_IMAGE = 3  # top, left, mirrored


def augment(pixels: Tensor, augmentation: Augmentation, preprocessing: Preprocessing, draws: NDArray) -> Tensor:
    """Vary and normalise uint8 (B, H, W, 3).

    Args:
        draws: uniform in 0..1, (B, DRAWS_PER_IMAGE).
    """
    return crop_and_mirror(to_inputs(pixels, preprocessing), augmentation, draws)


def to_inputs(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Normalise uint8 (B, H, W, 3): float32 (B, 3, H, W), channels last in memory."""
    images = pixels.permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W)
    mean = torch.tensor(preprocessing.mean, device=images.device)[:, None, None]  # (3, 1, 1)
    std = torch.tensor(preprocessing.std, device=images.device)[:, None, None]
    return (images - mean) / std


def crop_and_mirror(images: Tensor, augmentation: Augmentation, draws: NDArray) -> Tensor:
    """Shift each image of (B, C, H, W) by up to `crop_padding` pixels, fill with zeros, and mirror half of them."""
    batch, _, height, width = images.shape
    padding = augmentation.crop_padding
    top, left, mirrored = torch.from_numpy(draws).to(images.device).T[..., None]  # (B, 1) each
    rows = (top * (2 * padding + 1)).long() + torch.arange(height, device=images.device)  # (B, H)
    columns = (left * (2 * padding + 1)).long() + torch.arange(width, device=images.device)  # (B, W)
    if augmentation.horizontal_flip:
        columns = torch.where(mirrored < 0.5, columns.flip(1), columns)
    padded = F.pad(images, (padding,) * 4).permute(0, 2, 3, 1)  # (B, H + 2p, W + 2p, C)
    index = torch.arange(batch, device=images.device)[:, None, None]
    return padded[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)  # (B, C, H, W), channels last
