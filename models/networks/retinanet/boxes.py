"""Boxes: left, top, right, bottom in pixels of the network's input, and their offsets from anchors.

    dx = (centre x of the box - centre x of the anchor) / width of the anchor      dy alike
    dw = log(width of the box / width of the anchor)                               dh alike

Source: Ren et al. 2015, "Faster R-CNN", section 3.1.2; no scaling of the offsets on top.
"""

import math

import torch
from torch import Tensor

LARGEST_LOG_RATIO = math.log(1000 / 16)  # as in Faster R-CNN's code: a wild offset gives a large box, not infinity


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Offsets (..., 4) of boxes (..., 4) from anchors (..., 4); both have a width and a height above 0."""
    x, y, width, height = _centres(boxes)
    anchor_x, anchor_y, anchor_width, anchor_height = _centres(anchors)
    return torch.stack(
        [
            (x - anchor_x) / anchor_width,
            (y - anchor_y) / anchor_height,
            (width / anchor_width).log(),
            (height / anchor_height).log(),
        ],
        dim=-1,
    )


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes (..., 4) from offsets (..., 4) of anchors (..., 4): what `encode` undoes, up to 62.5 times an anchor."""
    anchor_x, anchor_y, anchor_width, anchor_height = _centres(anchors)
    dx, dy, dw, dh = deltas.unbind(-1)
    x, y = anchor_x + dx * anchor_width, anchor_y + dy * anchor_height
    half_width = anchor_width * dw.clamp(max=LARGEST_LOG_RATIO).exp() / 2
    half_height = anchor_height * dh.clamp(max=LARGEST_LOG_RATIO).exp() / 2
    return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], dim=-1)


def clip(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """The part of each box (..., 4) that is in a picture of `image_size` (H, W)."""
    height, width = image_size
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)  # (..., 2)
    return torch.stack([x, y], dim=-1).flatten(-2)  # (..., 4)


def area(boxes: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4) in square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each of `a` (..., A, 4) with each of `b` (..., B, 4): (..., A, B).

    0 for two empty boxes.
    """
    a, b = a.unsqueeze(-2), b.unsqueeze(-3)
    left_top = torch.maximum(a[..., :2], b[..., :2])  # (..., A, B, 2)
    right_bottom = torch.minimum(a[..., 2:], b[..., 2:])
    both = (right_bottom - left_top).clamp(min=0).prod(-1)  # (..., A, B)
    union = area(a) + area(b) - both
    return torch.where(union > 0, both / union, 0)


def _centres(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centres x and y, widths and heights, (...) each."""
    left, top, right, bottom = boxes.unbind(-1)
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
