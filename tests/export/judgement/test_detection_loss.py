"""What a detector loses in a lower precision, and that pictures which show nothing prove nothing."""

from pathlib import Path

import numpy as np
import pytest

from aaserve.bundle.bundle import open_bundle
from aaserve.bundle.coco.instances import Picture
from aaserve.export.errors import ExportError
from aaserve.export.judgement.detection_loss import DetectionJudgement, judge_detections
from tests.helpers import REPOSITORY

PREPROCESSING = open_bundle(REPOSITORY / "aa-cifar100" / "1").manifest.preprocessing
STRETCHED = PREPROCESSING.model_copy(update={"fit": "stretch", "resize": None, "crop": (40, 40)})
BOX = (0, 0, 10, 10)


class Answering:
    """A graph that finds one box in each picture."""

    def __init__(self, score: float, box: tuple[float, ...] = BOX) -> None:
        self.score, self.box = score, box

    def values(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        rows = len(pixels)
        return {
            "boxes": np.array([[self.box]] * rows, np.float32),
            "scores": np.full((rows, 1), self.score, np.float32),
            "classes": np.zeros((rows, 1), np.int64),
            "count": np.ones(rows, np.int64),
        }


def judged(
    fp32: Answering, lowered: Answering, *annotated: tuple[float, ...], crowd: bool = False
) -> DetectionJudgement:
    boxes = np.array(annotated, np.float32).reshape(-1, 4)
    pictures = [Picture(Path("one.png"), 40, 40, boxes, np.zeros(len(boxes), np.int64), np.full(len(boxes), crowd))]
    return judge_detections(
        fp32,
        lowered,
        [np.zeros((1, 40, 40, 3), np.uint8)],
        pictures if annotated else (),
        preprocessing=STRETCHED,
        num_classes=1,
    )


def test_agreement_judges_pictures_without_annotations() -> None:
    assert judged(Answering(0.9), Answering(0.8)).lost == 0
    assert judged(Answering(0.9), Answering(0.8, (20, 20, 30, 30))).lost == 100
    assert judged(Answering(0.3), Answering(0.8)).lost == 0  # found by both, with a certain score in one


def test_average_precision_judges_annotated_ones_even_if_no_score_is_certain() -> None:
    assert judged(Answering(0.3), Answering(0.2), BOX).lost == 0
    assert judged(Answering(0.3), Answering(0.2, (20, 20, 30, 30)), BOX).lost == pytest.approx(100)


def test_pictures_in_which_nothing_is_certain_are_no_evidence() -> None:
    with pytest.raises(ExportError, match=r"expected detections with a score of 0\.5 or more in the 1 pictures"):
        judged(Answering(0.3), Answering(0.2, (20, 20, 30, 30)))


def test_annotations_of_which_fp32_finds_none_are_no_evidence() -> None:
    with pytest.raises(ExportError, match="found an AP of 0; give --calibration pictures"):
        judged(Answering(0.9), Answering(0.9), (20, 20, 30, 30))
    with pytest.raises(ValueError, match="expected boxes to test on, found none"):
        judged(Answering(0.9), Answering(0.9), BOX, crowd=True)
