"""RandAugment and TrivialAugment for a batch on its device, each image by operations of its own.

Sources: Cubuk et al. 2020 (N operations of one magnitude), Müller & Hutter 2021 (one operation, any magnitude). The
operations and their ranges are RandAugment's, with Pillow's meaning (ImageOps, ImageEnhance), so that other papers'
settings carry over; geometry is sampled bilinearly, and what comes in from outside has the mean colour.

Letters in shape comments: B images, C = 3 channels, values in 0..1. Magnitudes (B,) are -1..1; operations that have no
direction take their size.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

DRAWS_PER_OPERATION = 3  # which, how strong, in which direction
GREY = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's "L"


def randaugment(images: Tensor, magnitude: float | Literal["random"], draws: NDArray, fill: Tensor) -> Tensor:
    """Apply to each of (B, C, H, W) as many operations as `draws` has columns for.

    Args:
        magnitude: strength 0..1 of every operation, or "random".
        draws: uniform in 0..1, (B, DRAWS_PER_OPERATION times operations).
        fill: colour (C, 1, 1) of what comes in from outside.
    """
    for which, strength, direction in np.split(draws.T, draws.shape[1] // DRAWS_PER_OPERATION):
        chosen = (which * len(OPERATIONS)).astype(int)
        size = strength if magnitude == "random" else np.full_like(strength, magnitude)
        signed = torch.from_numpy(np.where(direction < 0.5, -size, size)).to(images)
        varied = torch.empty_like(images)
        for number, operation in enumerate(OPERATIONS.values()):
            index = torch.from_numpy(np.flatnonzero(chosen == number)).to(images.device)
            if len(index):
                varied[index] = operation(images[index], signed[index], fill)
        images = varied
    return images


Operation = Callable[[Tensor, Tensor, Tensor], Tensor]


def identity(images: Tensor, magnitude: Tensor, fill: Tensor) -> Tensor:
    return images


def autocontrast(images: Tensor, magnitude: Tensor, fill: Tensor) -> Tensor:
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)  # (B, C, 1, 1)
    return torch.where(high > low, (images - low) / (high - low).clamp(min=1e-6), images)


def equalise(images: Tensor, magnitude: Tensor, fill: Tensor) -> Tensor:
    levels = (images * 255).round().long().flatten(2)  # (B, C, HW)
    histogram = torch.zeros(*levels.shape[:2], 256, device=images.device)
    histogram.scatter_add_(2, levels, torch.ones_like(levels, dtype=histogram.dtype))
    below = histogram.cumsum(2) - histogram  # (B, C, 256)
    step = ((levels.shape[2] - histogram.gather(2, levels.amax(2, keepdim=True))) / 255).floor()  # (B, C, 1)
    table = ((below + (step / 2).floor()) / step.clamp(min=1)).floor().clamp(max=255) / 255
    return torch.where(step > 0, table.gather(2, levels), images.flatten(2)).view_as(images)


def rotate(images: Tensor, magnitude: Tensor, fill: Tensor) -> Tensor:
    angle = magnitude * math.radians(30)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return _affine(images, [[cos, -sin, zero], [sin, cos, zero]], fill)


def shear_x(images: Tensor, magnitude: Tensor, fill: Tensor) -> Tensor:
    one, zero = torch.ones_like(magnitude), torch.zeros_like(magnitude)
    return _affine(images, [[one, 0.3 * magnitude, zero], [zero, one, zero]], fill)


def shear_y(images: Tensor, magnitude: Tensor, fill: Tensor) -> Tensor:
    one, zero = torch.ones_like(magnitude), torch.zeros_like(magnitude)
    return _affine(images, [[one, zero, zero], [0.3 * magnitude, one, zero]], fill)


def translate_x(images: Tensor, magnitude: Tensor, fill: Tensor) -> Tensor:
    one, zero = torch.ones_like(magnitude), torch.zeros_like(magnitude)
    return _affine(images, [[one, zero, 0.9 * magnitude], [zero, one, zero]], fill)  # 0.9 of half the width


def translate_y(images: Tensor, magnitude: Tensor, fill: Tensor) -> Tensor:
    one, zero = torch.ones_like(magnitude), torch.zeros_like(magnitude)
    return _affine(images, [[one, zero, zero], [zero, one, 0.9 * magnitude]], fill)


def posterise(images: Tensor, magnitude: Tensor, fill: Tensor) -> Tensor:
    bits = 8 - (4 * magnitude.abs()).round()[:, None, None, None]  # 8 to 4 are kept
    dropped = 2 ** (8 - bits)
    return ((images * 255).round() / dropped).floor() * dropped / 255


def solarise(images: Tensor, magnitude: Tensor, fill: Tensor) -> Tensor:
    threshold = 1 - magnitude.abs()[:, None, None, None]
    return torch.where(images >= threshold, 1 - images, images)


def colour(images: Tensor, magnitude: Tensor, fill: Tensor) -> Tensor:
    return _blend(_grey(images), images, magnitude)


def brightness(images: Tensor, magnitude: Tensor, fill: Tensor) -> Tensor:
    return _blend(torch.zeros_like(images), images, magnitude)


def contrast(images: Tensor, magnitude: Tensor, fill: Tensor) -> Tensor:
    return _blend(_grey(images).mean((2, 3), keepdim=True), images, magnitude)


def sharpness(images: Tensor, magnitude: Tensor, fill: Tensor) -> Tensor:
    kernel = torch.ones(3, 1, 3, 3, device=images.device)
    kernel[:, :, 1, 1] = 5
    smooth = images.clone()  # the border stays, as in Pillow's SMOOTH
    smooth[..., 1:-1, 1:-1] = F.conv2d(images, kernel / 13, groups=3)
    return _blend(smooth, images, magnitude)


OPERATIONS: dict[str, Operation] = {
    operation.__name__: operation
    for operation in (
        identity,
        autocontrast,
        equalise,
        rotate,
        shear_x,
        shear_y,
        translate_x,
        translate_y,
        posterise,
        solarise,
        colour,
        brightness,
        contrast,
        sharpness,
    )
}


def _affine(images: Tensor, rows: list[list[Tensor]], fill: Tensor) -> Tensor:
    """Sample where the matrices [[a, b, c], [d, e, f]], each (B,), send the output's places; centre 0, sides ±1."""
    matrix = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)  # (B, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)  # (B, H, W, 2)
    return F.grid_sample(images - fill, grid, align_corners=False) + fill


def _blend(dull: Tensor, images: Tensor, magnitude: Tensor) -> Tensor:
    """Pillow's enhancement: 0.1 to 1.9 of the way from `dull` to the image, and beyond."""
    factor = 1 + 0.9 * magnitude[:, None, None, None]
    return (dull + factor * (images - dull)).clamp(0, 1)


def _grey(images: Tensor) -> Tensor:
    """(B, 1, H, W)."""
    weights = torch.tensor(GREY, device=images.device)[:, None, None]
    return (images * weights).sum(1, keepdim=True)
