"""What a RetinaNet says of a batch --> its detections: the reference that exported graphs are compared with.

logits (N, A, K) --best pairs of anchor and class--> boxes decoded, clipped --per class, suppress overlaps--> best D
"""

from typing import NamedTuple

import torch
from torch import Tensor

from aaserve.models.networks.retinanet.boxes import clip, decode, iou

CANDIDATES = 1000  # pairs of anchor and class of a picture that enter suppression; Lin et al. 2017 take as many a level


class Detections(NamedTuple):
    """Those of each picture, best first; rows beyond its count are zeros.

    boxes: (N, D, 4) left, top, right, bottom in pixels of the network's input.
    scores: (N, D) probabilities of the classes.
    classes: (N, D) int64.
    count: (N,) int64.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    count: Tensor


@torch.no_grad()
def detect(
    class_logits: Tensor,
    box_deltas: Tensor,
    anchors: Tensor,
    *,
    image_size: tuple[int, int],
    score_threshold: float = 0.05,
    iou_threshold: float = 0.5,
    max_detections: int = 100,
) -> Detections:
    """Turn logits (N, A, K) and offsets (N, A, 4) of anchors (A, 4) into detections in a picture of (H, W) pixels.

    Of all pairs of an anchor and a class, the CANDIDATES with the highest scores above `score_threshold` take part. Of
    two of one class whose intersection over union is above `iou_threshold`, the one with the lower score goes.
    """
    # At least float32: boxes in bf16 would be off by pixels.
    class_logits, box_deltas = (
        values.to(torch.promote_types(values.dtype, torch.float32)) for values in (class_logits, box_deltas)
    )
    rows = [
        _detect_one(
            logits,
            deltas,
            anchors,
            image_size=image_size,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_detections=max_detections,
        )
        for logits, deltas in zip(class_logits, box_deltas, strict=True)
    ]
    return Detections(*(torch.stack(values) for values in zip(*rows, strict=True)))


def _detect_one(
    logits: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    *,
    image_size: tuple[int, int],
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
) -> Detections:
    """One picture, (A, K) and (A, 4), without the axis of the batch."""
    # The best pairs are of the anchors whose best class is among as many.
    _, best = _largest(logits.amax(dim=1), CANDIDATES)  # (C,)
    candidates = logits[best].flatten()  # (C K,)
    candidates, pairs = _largest(candidates, CANDIDATES)  # (P,)
    scores = candidates.sigmoid()
    likely = scores > score_threshold
    scores, pairs = scores[likely], pairs[likely]
    chosen, classes = best[pairs // logits.shape[1]], pairs % logits.shape[1]
    boxes = clip(decode(deltas[chosen], anchors[chosen]), image_size)  # (P, 4)
    # Apart by more than a picture, boxes of different classes never overlap.
    kept = _suppress(boxes + classes[:, None] * (max(image_size) + 1), iou_threshold, max_detections)
    count = len(kept)
    rows = boxes.new_zeros(max_detections, 4), scores.new_zeros(max_detections), classes.new_zeros(max_detections)
    for row, values in zip(rows, (boxes, scores, classes), strict=True):
        row[:count] = values[kept]
    return Detections(*rows, torch.tensor(count, device=boxes.device))


def _largest(values: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Up to `most` of the values and their indices, the largest first; of equal ones the first, as ONNX has it."""
    ordered, indices = values.sort(descending=True, stable=True)
    return ordered[:most], indices[:most]


def _suppress(boxes: Tensor, iou_threshold: float, most: int) -> Tensor:
    """Indices of up to `most` of the boxes (P, 4), best first, none of which overlaps a better one."""
    overlapping = (iou(boxes, boxes) > iou_threshold).cpu()  # (P, P)
    undecided, kept = torch.ones(len(boxes), dtype=torch.bool), []
    for index in range(len(boxes)):
        if undecided[index]:
            kept.append(index)
            if len(kept) == most:
                break
            undecided &= ~overlapping[index]
    return torch.tensor(kept, dtype=torch.long, device=boxes.device)
