"""Anchors: at each position of each level of the pyramid, boxes of several sizes and shapes.

Source: Lin et al. 2017, "Focal Loss for Dense Object Detection", section 4: areas of 32² to 512² on P3 to P7, which is
4 times the stride, three sizes an octave, and ratios of 1:2, 1:1 and 2:1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

RATIOS = (0.5, 1.0, 2.0)  # height over width


def level_sizes(image_size: tuple[int, int], levels: Sequence[int]) -> list[tuple[int, int]]:
    """(H, W) of each level's feature map: each level halves the one below, rounding up."""
    height, width = image_size
    return [(-(-height // 2**level), -(-width // 2**level)) for level in levels]


def make_anchors(
    image_size: tuple[int, int], levels: Sequence[int], *, base: float, scales: int, ratios: Sequence[float] = RATIOS
) -> Tensor:
    """(A, 4) boxes left, top, right, bottom in pixels, level by level, row by row, position by position.

    Args:
        image_size: (H, W) in pixels.
        levels: exponents of the strides: level 3 has one of 2³ pixels.
        base: side of the smallest square anchor over the stride.
        scales: sizes an octave; the anchors of a position are size by size, each in every ratio.
        ratios: heights over widths.
    """
    anchors = []
    for level, (height, width) in zip(levels, level_sizes(image_size, levels), strict=True):
        stride = 2**level
        sides = base * stride * 2 ** (torch.arange(scales) / scales)  # (S,)
        roots = torch.tensor(ratios).sqrt()  # (R,)
        widths, heights = (sides[:, None] / roots).flatten(), (sides[:, None] * roots).flatten()  # (S R,)
        shapes = torch.stack([-widths, -heights, widths, heights], dim=1) / 2  # (S R, 4)
        y, x = (torch.arange(size) * stride + stride / 2 for size in (height, width))
        y, x = torch.meshgrid(y, x, indexing="ij")
        centres = torch.stack([x, y, x, y], dim=-1)  # (H, W, 4)
        anchors.append((centres[:, :, None] + shapes).flatten(0, 2))  # (H W S R, 4)
    return torch.cat(anchors)
