"""Detections of one picture, and how far two sets of them are apart: of two runtimes, machines or precisions."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Least score of the detections that two precisions of a graph are compared by: weaker ones come and go with any
# rounding, and POST /detect does not show them by default.
CERTAIN = 0.5
SAME_BOX = 0.5  # least intersection over union, as in PASCAL VOC


class Detections(NamedTuple):
    """Boxes (n, 4), scores (n,) and classes (n,), the best score first.

    Boxes are left, top, right, bottom in pixels, of the network's input unless said otherwise.
    """

    boxes: NDArray[np.floating]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]


class Difference(NamedTuple):
    """How far two sets of detections are apart.

    Args:
        score: largest difference of the scores of two detections that belong together. One that has no counterpart
            counts as if its counterpart had a score of 0.
        iou: least intersection over union of their boxes; 0 if a detection has no counterpart.
        matched: detections that have a counterpart of the same class.
        compared: detections that were looked for.
    """

    score: float
    iou: float
    matched: int
    compared: int


def detections_of(row: Mapping[str, NDArray[Any]]) -> Detections:
    """The detections among the outputs of one row: those up to `count`."""
    count = int(row["count"])
    return Detections(row["boxes"][:count], row["scores"][:count], row["classes"][:count])


def detections_of_batch(outputs: Mapping[str, NDArray[Any]]) -> list[Detections]:
    """Those of each row of a batch."""
    return [
        detections_of({name: values[row] for name, values in outputs.items()}) for row in range(len(outputs["count"]))
    ]


def difference(
    found: Detections, expected: Detections, *, score_threshold: float, least_iou: float = 0.0
) -> Difference:
    """Compare the detections of one picture with a score of at least `score_threshold` in either set.

    Each is looked for among all of the other set, so that one whose score crosses the threshold still finds its
    counterpart. Take a threshold above that of the graph for that reason.

    Args:
        least_iou: boxes that overlap by less do not belong together.
    """
    there = _looked_for(expected, found, score_threshold, least_iou)
    back = _looked_for(found, expected, score_threshold, least_iou)
    return Difference(
        float(np.maximum(there.score, back.score)),  # NaN if one is
        min(there.iou, back.iou),
        there.matched + back.matched,
        there.compared + back.compared,
    )


def intersection_over_union(boxes: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.float64]:
    """Of each pair of boxes (n, 4) and (m, 4): (n, m)."""
    first, second = boxes[:, None].astype(np.float64), others[None].astype(np.float64)
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    intersection = sides.clip(0).prod(axis=-1)  # (n, m)
    areas = [(each[..., 2:] - each[..., :2]).clip(0).prod(axis=-1) for each in (first, second)]
    union = areas[0] + areas[1] - intersection
    same = (first == second).all(axis=-1).astype(np.float64)  # of boxes without an area
    overlaps: NDArray[np.float64] = np.divide(intersection, union, out=same, where=union > 0)
    return overlaps


def _looked_for(wanted: Detections, among: Detections, score_threshold: float, least_iou: float) -> Difference:
    """Each wanted detection, the best score first, takes the box of its class that overlaps it most and is free."""
    chosen = np.flatnonzero(wanted.scores >= score_threshold)
    overlaps = intersection_over_union(wanted.boxes[chosen], among.boxes)  # (n, m)
    overlaps[wanted.classes[chosen, None] != among.classes[None]] = -1
    worst_iou, matched = 1.0, 0
    differences = np.zeros(len(chosen))
    for row, index in enumerate(chosen):
        best = int(overlaps[row].argmax()) if len(among.scores) else -1
        overlap, other_score = (float(overlaps[row, best]), float(among.scores[best])) if best >= 0 else (0.0, 0.0)
        if overlap > 0 and overlap >= least_iou:
            matched += 1
            overlaps[:, best] = -1
        else:
            overlap = other_score = 0.0
        differences[row] = abs(float(wanted.scores[index]) - other_score)
        worst_iou = min(worst_iou, overlap)
    return Difference(float(differences.max(initial=0)), worst_iou, matched, len(chosen))
