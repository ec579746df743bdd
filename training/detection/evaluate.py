"""COCO's average precision as a user would see it: through bundle.preprocessing, boxes in pixels of the pictures."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn

from aaserve.bundle.pictures.fitting import placement, to_picture
from aaserve.bundle.preprocessing import Preprocessing, normalise
from aaserve.models.retinanet.detections import detect
from aaserve.training.detection.coco import Picture
from aaserve.training.detection.pictures import BoxedPictures
from aaserve.training.log import Row
from aaserve.training.machine import Machine

BATCH_SIZE = 16
SCORE_THRESHOLD = 0.01
IOU_THRESHOLD = 0.5  # of suppression
MAX_DETECTIONS = 100  # of a picture, as COCO counts them


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

    def row(self) -> Row:
        return {"ap": self.ap, "ap_50": self.ap_50, "ap_75": self.ap_75}


@dataclass(frozen=True)
class Found:
    """What a detector found in a picture, in its pixels: boxes (n, 4), scores (n,), classes (n,)."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


def evaluate(
    network: nn.Module, pictures: BoxedPictures, preprocessing: Preprocessing, machine: Machine, num_classes: int
) -> DetectionScore:
    """Score the network in float32 on all pictures; each process takes its share of them."""
    network.eval()
    machine.share(network.buffers())  # each process has its own statistics of batch normalisation
    mine = np.arange(machine.rank, len(pictures), machine.processes)
    order = [mine[start : start + BATCH_SIZE] for start in range(0, len(mine), BATCH_SIZE)]
    found: dict[int, Found] = {}
    with torch.inference_mode():
        for index, (pixels, _, _) in zip(order, pictures.batches(order, ()), strict=True):
            inputs = torch.from_numpy(normalise(pixels.numpy(), preprocessing)).to(machine.device)  # (B, 3, H, W)
            class_logits, box_deltas = network(inputs.to(memory_format=torch.channels_last))
            detections = detect(
                class_logits,
                box_deltas,
                network.anchors,
                image_size=preprocessing.crop,
                score_threshold=SCORE_THRESHOLD,
                iou_threshold=IOU_THRESHOLD,
                max_detections=MAX_DETECTIONS,
            )
            for number, *rows in zip(index.tolist(), *detections, strict=True):
                found[number] = _in_picture(pictures.pictures[number], preprocessing, *rows)
    return average_precision(pictures.pictures, machine.gathered(found), num_classes)


def _in_picture(
    picture: Picture, preprocessing: Preprocessing, boxes: Tensor, scores: Tensor, classes: Tensor, count: Tensor
) -> Found:
    placed = placement(preprocessing, picture.width, picture.height)
    boxes, scores, classes = (tensor[: int(count)].cpu().numpy() for tensor in (boxes, scores, classes))
    return Found(to_picture(boxes, placed, picture.width, picture.height), scores, classes)


def average_precision(pictures: Sequence[Picture], found: dict[int, Found], num_classes: int) -> DetectionScore:
    """COCO's, by pycocotools; `found` is by the number of the picture."""
    annotations = [
        _annotation(number, box, kind) | {"iscrowd": int(crowd)}
        for number, picture in enumerate(pictures)
        for box, kind, crowd in zip(picture.boxes, picture.classes, picture.crowd, strict=True)
    ]
    if not annotations:
        raise ValueError("expected boxes to test on, found none")
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


def _mean(precision: np.ndarray) -> float | None:
    """Over the classes that there is something of; pycocotools says -1 of the others."""
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None


def _annotation(number: int, box: np.ndarray, kind: int) -> dict[str, Any]:
    left, top, right, bottom = map(float, box)
    width, height = right - left, bottom - top
    return {"image_id": number, "category_id": int(kind), "bbox": [left, top, width, height], "area": width * height}


def _coco(content: dict[str, Any], annotations: list[dict[str, Any]]) -> COCO:
    coco = COCO()
    numbered = [{"id": number, "iscrowd": 0} | one for number, one in enumerate(annotations, start=1)]
    coco.dataset = {**content, "annotations": numbered}
    coco.createIndex()
    return coco
