"""Detections: best first, none overlapping a better one of its class, rows of zeros after the last."""

import torch

from aaserve.models.networks.retinanet.boxes import encode, iou
from aaserve.models.networks.retinanet.detections import Detections, detect

ANCHORS = torch.tensor(
    [[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [20.0, 0.0, 30.0, 10.0], [0.0, 20.0, 10.0, 30.0]]
)
SIZE = (32, 40)


def detected(probabilities: list[list[float]], boxes: torch.Tensor = ANCHORS, **options: float) -> Detections:
    """The detections of one picture with the anchors' probabilities (A, K)."""
    logits = torch.tensor(probabilities).logit()[None]
    options = {"max_detections": 5} | options
    return detect(logits, encode(boxes, ANCHORS)[None], ANCHORS, image_size=SIZE, **options)


def test_of_two_that_overlap_the_one_with_the_higher_score_stays() -> None:
    found = detected([[0.6, 0.01], [0.9, 0.01], [0.01, 0.7], [0.01, 0.01]])
    assert found.count.tolist() == [2]
    assert found.classes[0].tolist() == [0, 1, 0, 0, 0]
    torch.testing.assert_close(found.scores[0], torch.tensor([0.9, 0.7, 0, 0, 0]))
    torch.testing.assert_close(found.boxes[0, :2], ANCHORS[[1, 2]])
    assert not found.boxes[0, 2:].any()


def test_boxes_of_different_classes_do_not_suppress_each_other() -> None:
    found = detected([[0.6, 0.01], [0.01, 0.9], [0.01, 0.01], [0.01, 0.01]])
    assert found.classes[0, :2].tolist() == [1, 0]


def test_one_anchor_may_be_two_detections_of_different_classes() -> None:
    found = detected([[0.6, 0.5], [0.01, 0.01], [0.01, 0.01], [0.01, 0.01]])
    assert found.count.tolist() == [2]
    assert torch.equal(found.boxes[0, 0], found.boxes[0, 1])


def test_thresholds_are_as_given() -> None:
    probabilities = [[0.6], [0.9], [0.3], [0.1]]
    assert detected(probabilities, score_threshold=0.3001).count.tolist() == [1]
    assert detected(probabilities, score_threshold=0.0, iou_threshold=0.9).count.tolist() == [4]
    assert detected(probabilities, max_detections=2).count.tolist() == [2]


def test_boxes_end_at_the_border_of_the_picture() -> None:
    found = detected([[0.01], [0.01], [0.01], [0.9]], ANCHORS + torch.tensor([-5.0, 0.0, 35.0, 9.0]))
    assert found.boxes[0, 0].tolist() == [0, 20, 40, 32]


def test_a_picture_without_anything_likely_has_no_detections() -> None:
    found = detected([[0.01]] * 4)
    assert found.count.tolist() == [0]
    assert not found.scores.any()


def test_pictures_of_a_batch_are_apart_and_the_best_of_very_many_are_taken() -> None:
    torch.manual_seed(0)
    corners = torch.rand(3000, 2) * 200
    anchors = torch.cat([corners, corners + 8 + 40 * torch.rand(3000, 2)], dim=1)
    logits, deltas = torch.randn(2, 3000, 7), torch.randn(2, 3000, 4) * 0.1
    options = {"image_size": (240, 240), "max_detections": 100}
    together = detect(logits, deltas, anchors, **options)
    for index in range(2):
        alone = detect(logits[index : index + 1], deltas[index : index + 1], anchors, **options)
        assert all(torch.equal(one[index], other[0]) for one, other in zip(together, alone, strict=True))
        scores, classes, boxes = (values[index] for values in (together.scores, together.classes, together.boxes))
        assert torch.equal(scores, scores.sort(descending=True).values)
        assert scores[0] == logits[index].sigmoid().max()
        same = (classes[:, None] == classes) & ~torch.eye(100, dtype=torch.bool)
        assert (iou(boxes, boxes)[same] <= 0.5).all()
