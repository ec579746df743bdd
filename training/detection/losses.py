"""What each anchor is to find, and how far a detector is from finding it.

    anchors, boxes --assign--> a box, nothing, or ignored --focal loss of the classes, GIoU loss of the boxes--> number

Sources: Lin et al. 2017, "Focal Loss for Dense Object Detection"; Rezatofighi et al. 2019, "Generalized Intersection
over Union".
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from aaserve.models.networks.retinanet.boxes import area, decode, iou
from aaserve.training.recipe import Boxes

ALPHA, GAMMA = 0.25, 2.0  # Lin et al. 2017, section 5.1
NOTHING, IGNORED = -1, -2


def assign(anchors: Tensor, boxes: Tensor, settings: Boxes) -> Tensor:
    """The index of the box that each anchor is to find, NOTHING or IGNORED; int64 (A,).

    Args:
        anchors, boxes: (A, 4) and (n, 4).
    """
    assigned = torch.full((len(anchors),), NOTHING, device=anchors.device)
    if not len(boxes):
        return assigned
    overlaps = iou(anchors, boxes)  # (A, n)
    best, number = overlaps.max(dim=1)  # (A,)
    assigned[best >= settings.negative_overlap] = IGNORED
    positive = best >= settings.positive_overlap
    assigned[positive] = number[positive]
    if settings.best_anchor:
        # Large boxes first, so that a small one in the same place keeps the anchor: it has fewer.
        largest_first = area(boxes).argsort(descending=True)
        assigned[overlaps.argmax(dim=0)[largest_first]] = largest_first
    return assigned


def focal_loss(logits: Tensor, assigned: Tensor, classes: Tensor) -> Tensor:
    """The sum over anchors that are not ignored, and over classes.

    Args:
        logits: (..., K).
        assigned: of each anchor, whether it is positive (>= 0), NOTHING or IGNORED; (...).
        classes: of the positive anchors in their order, (positives,).
    """
    counted = assigned != IGNORED
    loss = _as_negative(logits).sum(-1)[counted].sum()  # as if there were nothing to find …
    right = logits[assigned >= 0].gather(1, classes[:, None])  # (positives, 1)
    return loss - _as_negative(right).sum() + _as_positive(right).sum()  # … but for the right class of positive ones


def giou_loss(boxes: Tensor, wanted: Tensor) -> Tensor:
    """The sum of 1 - GIoU over pairs of boxes, (n, 4) each."""
    both = (
        (torch.minimum(boxes[:, 2:], wanted[:, 2:]) - torch.maximum(boxes[:, :2], wanted[:, :2])).clamp(min=0).prod(1)
    )
    union = area(boxes) + area(wanted) - both
    around = (torch.maximum(boxes[:, 2:], wanted[:, 2:]) - torch.minimum(boxes[:, :2], wanted[:, :2])).prod(1)
    return (1 - both / union + (around - union) / around).sum()


def detection_loss(
    class_logits: Tensor,
    box_deltas: Tensor,
    anchors: Tensor,
    assigned: Tensor,
    wanted_boxes: Tensor,
    wanted_classes: Tensor,
    box_weight: float,
) -> Tensor:
    """The sum of both losses.

    Args:
        class_logits: (B, A, K).
        box_deltas: (B, A, 4).
        anchors: (A, 4).
        assigned: (B, A), as `assign` gives it.
        wanted_boxes: of the positive anchors in their order, (positives, 4); wanted_classes alike, (positives,).
    """
    positive = assigned >= 0
    boxes = decode(box_deltas[positive], anchors.expand(len(assigned), -1, -1)[positive])
    return focal_loss(class_logits, assigned, wanted_classes) + box_weight * giou_loss(boxes, wanted_boxes)


def _as_negative(logits: Tensor) -> Tensor:
    return (1 - ALPHA) * logits.sigmoid() ** GAMMA * F.softplus(logits)


def _as_positive(logits: Tensor) -> Tensor:
    return ALPHA * (-logits).sigmoid() ** GAMMA * F.softplus(-logits)
