"""COCO's average precision, by pycocotools, as a user would see it: boxes in pixels of the pictures.

detections in pixels of the input --in_picture--> in pixels of the picture --average_precision--> DetectionScore
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from aaserve.bundle.coco.instances import Picture, has_boxes
from aaserve.bundle.detections import Detections
from aaserve.bundle.pictures.fitting import has_area, placement, to_picture
from aaserve.bundle.preprocessing import Preprocessing


@dataclass(frozen=True)
class DetectionScore:
    """Average precision over IoU 0.50 to 0.95, at 0.50 and at 0.75: means over the classes that there is something of.

    `of_classes` are the three of each class, None for a class that there is nothing of.
    """

    images: int
    ap: float
    ap_50: float
    ap_75: float
    of_classes: tuple[tuple[float | None, ...], ...] = ()

    def __str__(self) -> str:
        return f"AP {self.ap:.2%}, AP50 {self.ap_50:.2%}, AP75 {self.ap_75:.2%}"

    def row(self) -> dict[str, float | int | None]:
        """The columns of a log."""
        return {"ap": self.ap, "ap_50": self.ap_50, "ap_75": self.ap_75}


def in_picture(found: Detections, picture: Picture, preprocessing: Preprocessing) -> Detections:
    """Detections in pixels of the input, in pixels of the picture; as in the service, without those outside of it."""
    placed = placement(preprocessing, picture.width, picture.height)
    boxes = to_picture(found.boxes, placed, picture.width, picture.height)
    inside = has_area(boxes)
    return Detections(boxes[inside], found.scores[inside], found.classes[inside])


def average_precision(pictures: Sequence[Picture], found: Mapping[int, Detections], num_classes: int) -> DetectionScore:
    """Score what was found in the pictures, in their pixels.

    Args:
        found: by the number of the picture.

    Raises:
        ValueError: no picture has a box, except of crowds.
    """
    if not has_boxes(pictures):
        raise ValueError("expected boxes to test on, found none")
    annotations = [
        _annotation(number, box, kind) | {"iscrowd": int(crowd)}
        for number, picture in enumerate(pictures)
        for box, kind, crowd in zip(picture.boxes, picture.classes, picture.crowd, strict=True)
    ]
    results = [
        _annotation(number, box, kind) | {"score": float(score)}
        for number, one in found.items()
        for box, score, kind in zip(one.boxes, one.scores, one.classes, strict=True)
    ]
    content = {
        "images": [{"id": number} for number in range(len(pictures))],
        "categories": [{"id": number} for number in range(num_classes)],
    }
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells of each of its steps
        evaluation = COCOeval(_coco(content, annotations), _coco(content, results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    # (thresholds of IoU, recalls, classes, areas, detections of a picture): all areas, at most 100
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    thresholds = evaluation.params.iouThrs.round(2).tolist()
    chosen = slice(None), thresholds.index(0.5), thresholds.index(0.75)
    of_classes = tuple(tuple(_mean(precision[one, ..., number]) for one in chosen) for number in range(num_classes))
    ap, ap_50, ap_75 = (_mean(precision[one]) or 0.0 for one in chosen)
    return DetectionScore(len(pictures), ap, ap_50, ap_75, of_classes)


def _mean(precision: NDArray[np.floating]) -> float | None:
    """Over the classes that there is something of; pycocotools says -1 of the others."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None


def _annotation(number: int, box: NDArray[np.floating], kind: int) -> dict[str, Any]:
    left, top, right, bottom = map(float, box)
    width, height = right - left, bottom - top
    return {"image_id": number, "category_id": int(kind), "bbox": [left, top, width, height], "area": width * height}


def _coco(content: dict[str, Any], annotations: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    numbered = [{"id": number, "iscrowd": 0} | one for number, one in enumerate(annotations, start=1)]
    coco.dataset = {**content, "annotations": numbered}
    coco.createIndex()
    return coco
