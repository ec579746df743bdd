"""Mixup and CutMix: images of a batch mixed with their neighbours, and their labels with them.

Sources: Zhang et al. 2018; Yun et al. 2019. One random draw decides how a whole batch is mixed.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from aaserve.training.recipe import Augmentation


@dataclass(frozen=True)
class Mix:
    """Share of an image that is kept; for CutMix also the centre (y, x) of the other image's box, in 0..1."""

    share: float
    centre: tuple[float, float] | None


def draw_mix(augmentation: Augmentation, random: np.random.Generator) -> Mix | None:
    """How to mix the next batch; None: do not mix it."""
    ways = [name for name in ("mixup_alpha", "cutmix_alpha") if getattr(augmentation, name) > 0]
    if not ways or random.random() >= augmentation.mix_probability:
        return None
    way = ways[random.integers(len(ways))]
    alpha = getattr(augmentation, way)
    share = float(random.beta(alpha, alpha))
    return Mix(share, tuple(random.random(2).tolist()) if way == "cutmix_alpha" else None)


def mix(inputs: Tensor, classes: Tensor, how: Mix, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mix each of (B, C, H, W) with the one before; inputs, and probabilities (B, num_classes)."""
    others, share = inputs.roll(1, dims=0), how.share
    if how.centre is None:
        mixed = share * inputs + (1 - share) * others
    else:
        height, width = inputs.shape[-2:]
        side = (1 - share) ** 0.5
        top, bottom = _span(how.centre[0], side, height)
        left, right = _span(how.centre[1], side, width)
        mixed = inputs.clone()
        mixed[..., top:bottom, left:right] = others[..., top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)  # a box at the border is clipped
    wanted = F.one_hot(classes, num_classes).to(inputs.dtype)
    return mixed, share * wanted + (1 - share) * wanted.roll(1, dims=0)


def _span(centre: float, side: float, length: int) -> tuple[int, int]:
    """First pixel and the one after the last, of `side` (share of `length`) around `centre`."""
    start = round((centre - side / 2) * length)
    return max(start, 0), min(start + round(side * length), length)
