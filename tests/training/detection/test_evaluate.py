"""Average precision: of detections that are known, and in pixels of the pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aaserve.bundle.coco.average_precision import average_precision
from aaserve.bundle.coco.instances import Picture
from aaserve.bundle.detections import Detections
from aaserve.bundle.pictures.fitting import placement, to_input
from aaserve.models.networks.retinanet.boxes import encode
from aaserve.training.detection.evaluate import evaluate
from aaserve.training.detection.task import open_coco
from tests.training.detection.squares import detector
from tests.training.tiny import CPU


def picture(boxes: list[list[float]], classes: list[int], crowd: list[bool] | None = None) -> Picture:
    return Picture(
        Path("one.png"),
        100,
        100,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(classes),
        np.array(crowd or [False] * len(boxes), np.bool_),
    )


def found(boxes: list[list[float]], scores: list[float], classes: list[int]) -> Detections:
    return Detections(np.array(boxes).reshape(-1, 4), np.array(scores), np.array(classes))


def test_average_precision_is_cocos() -> None:
    """Of two boxes, the first is found and the second with an IoU of 0.6; a false alarm is in between."""
    pictures = [picture([[0, 0, 10, 10], [50, 50, 60, 60]], [1, 1])]
    result = average_precision(
        pictures, {0: found([[0, 0, 10, 10], [80, 80, 90, 90], [50, 50, 60, 56]], [0.9, 0.8, 0.7], [1, 1, 1])}, 3
    )
    at_50 = (51 * 1 + 50 * 2 / 3) / 101  # the precision at 101 recalls: 1 up to one half, then two of three
    at_75 = 51 / 101
    assert result.ap_50 == pytest.approx(at_50)
    assert result.ap_75 == pytest.approx(at_75)
    assert result.ap == pytest.approx((3 * at_50 + 7 * at_75) / 10)
    assert result.of_classes[0] == result.of_classes[2] == (None, None, None)
    assert result.of_classes[1] == pytest.approx((result.ap, at_50, at_75))
    assert str(result) == f"AP {result.ap:.2%}, AP50 {at_50:.2%}, AP75 {at_75:.2%}"


def test_what_is_found_in_a_crowd_counts_neither_way() -> None:
    pictures = [picture([[0, 0, 10, 10], [40, 40, 90, 90]], [0, 0], [False, True])]
    result = average_precision(pictures, {0: found([[50, 50, 60, 60], [0, 0, 10, 10]], [0.9, 0.8], [0, 0])}, 1)
    assert result.ap == pytest.approx(1)


@pytest.mark.parametrize("crowd", [[], [True]], ids=["nothing", "a crowd"])
def test_pictures_without_anything_to_find_have_no_score(crowd: list[bool]) -> None:
    boxes = [[0, 0, 10, 10]] * len(crowd)
    with pytest.raises(ValueError, match="expected boxes to test on, found none"):
        average_precision([picture(boxes, [0] * len(crowd), crowd)], {0: found(boxes, [0.9] * len(crowd), [0])}, 1)


def test_nothing_found_is_a_score_of_0() -> None:
    result = average_precision([picture([[0, 0, 10, 10]], [0])], {0: found([], [], [])}, 1)
    assert (result.ap, result.ap_50, result.ap_75) == (0, 0, 0)


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_a_detector_that_finds_everything_has_a_score_of_1(squares: Path, fit: str) -> None:
    """Its boxes are in pixels of the input, and are scored in those of the pictures."""
    chosen = detector(preprocessing={"fit": fit})
    data = open_coco(squares, chosen)

    class Knowing(nn.Module):
        """Answers with an anchor for each box of the pictures, which come in their order."""

        anchors = torch.tensor([[0.0, 0, 64, 64]]).repeat(5, 1)

        def __init__(self) -> None:
            super().__init__()
            self.next = 0

        def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
            logits, deltas = torch.full((len(inputs), 5, 2), -20.0), torch.zeros(len(inputs), 5, 4)
            for row in range(len(inputs)):
                one = data.test.pictures[self.next]
                placed = placement(chosen.preprocessing, one.width, one.height)
                boxes = torch.from_numpy(to_input(one.boxes, placed, one.width, one.height)).float()
                deltas[row, : len(boxes)] = encode(boxes, self.anchors[: len(boxes)])
                logits[row, torch.arange(len(boxes)), torch.from_numpy(one.classes)] = 5.0
                self.next += 1
            return logits, deltas

    result = evaluate(Knowing(), data.test, chosen.preprocessing, CPU, 2)
    assert result.images == 6
    assert result.ap == pytest.approx(1)
