"""Assignment, focal loss and GIoU, beside their definitions."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aaserve.models.networks.retinanet.boxes import encode
from aaserve.training.detection.losses import IGNORED, NOTHING, assign, detection_loss, focal_loss, giou_loss
from aaserve.training.recipe import Boxes

ANCHORS = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 22], [0, 0, 10, 30], [50, 50, 60, 60], [52, 50, 62, 60]])


def test_anchors_find_the_box_that_they_overlap_most() -> None:
    boxes = torch.tensor([[50.0, 50, 60, 60], [0, 0, 10, 10]])
    assert assign(ANCHORS, boxes, Boxes()).tolist() == [1, IGNORED, NOTHING, 0, 0]  # IoU 1, 0.45, 0.33, 1, 0.67


def test_a_box_that_no_anchor_overlaps_enough_gets_its_best_one() -> None:
    boxes = torch.tensor([[54.0, 54, 57, 57], [0, 0, 10, 10]])
    assert assign(ANCHORS, boxes, Boxes()).tolist() == [1, IGNORED, NOTHING, 0, NOTHING]
    assert assign(ANCHORS, boxes, Boxes(best_anchor=False)).tolist() == [1, IGNORED, NOTHING, NOTHING, NOTHING]


def test_of_two_boxes_with_the_same_best_anchor_the_smaller_one_keeps_it() -> None:
    boxes = torch.tensor([[54.0, 54, 57, 57], [0, 0, 4, 4], [0, 0, 10, 8]])
    assert assign(ANCHORS[:1], boxes[1:], Boxes()).tolist() == [0]
    assert assign(ANCHORS[:1], boxes[[2, 1]], Boxes()).tolist() == [1]


def test_without_boxes_every_anchor_is_to_find_nothing() -> None:
    assert assign(ANCHORS, torch.zeros(0, 4), Boxes()).tolist() == [NOTHING] * 5


def defined(logits: Tensor, target: Tensor) -> Tensor:
    """Lin et al. 2017, equation 5, of each element."""
    p = logits.sigmoid()
    p_t = torch.where(target > 0, p, 1 - p)
    alpha_t = torch.where(target > 0, 0.25, 0.75)
    return -alpha_t * (1 - p_t) ** 2 * p_t.log()


def test_the_focal_loss_is_the_papers() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 3, dtype=torch.float64) * 3
    assigned = torch.tensor([[0, NOTHING, IGNORED, 1, NOTHING], [NOTHING] * 4 + [0]])
    classes = torch.tensor([2, 0, 1])
    target = torch.zeros_like(logits)
    target[0, 0, 2] = target[0, 3, 0] = target[1, 4, 1] = 1
    expected = defined(logits, target)[assigned != IGNORED].sum()
    torch.testing.assert_close(focal_loss(logits, assigned, classes), expected)


def test_the_focal_loss_is_finite_however_sure_the_network_is() -> None:
    logits = torch.tensor([[[200.0, -200.0], [-200.0, 200.0]]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([[0, NOTHING]]), torch.tensor([1]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("box", "other", "expected"),
    [
        pytest.param([0, 0, 2, 2], [0, 0, 2, 2], 0, id="the same"),
        pytest.param([0, 0, 2, 2], [0, 0, 2, 1], 1 - 1 / 2, id="half"),
        pytest.param([0, 0, 1, 1], [3, 0, 4, 1], 1 + 2 / 4, id="apart"),
        pytest.param([0, 0, 2, 2], [1, 1, 3, 3], 1 - 1 / 7 + 2 / 9, id="corners"),
    ],
)
def test_giou_is_the_papers(box: list[float], other: list[float], expected: float) -> None:
    loss = giou_loss(torch.tensor([box]).double(), torch.tensor([other]).double())
    assert loss.item() == pytest.approx(expected)


def test_a_perfect_detector_has_next_to_no_loss_and_moves_towards_it() -> None:
    boxes = torch.tensor([[0.0, 0, 12, 11], [50, 48, 61, 60]])
    assigned = assign(ANCHORS, boxes, Boxes())[None]
    wanted = boxes[assigned[assigned >= 0]]
    classes = torch.tensor([1, 0])[assigned[assigned >= 0]]
    logits = torch.full((1, 5, 2), -12.0)
    logits[assigned >= 0] = torch.where(F.one_hot(classes, 2) > 0, 12.0, -12.0)
    deltas = torch.zeros(1, 5, 4)
    deltas[assigned >= 0] = encode(wanted, ANCHORS[(assigned >= 0)[0]])
    assert detection_loss(logits, deltas, ANCHORS, assigned, wanted, classes, 1.0) < 1e-3
    worse = detection_loss(logits, deltas * 0, ANCHORS, assigned, wanted, classes, 1.0)
    assert worse > 0.1
    assert detection_loss(logits, deltas * 0, ANCHORS, assigned, wanted, classes, 2.0) == pytest.approx(
        2 * worse.item(), rel=1e-3
    )


def test_a_batch_without_boxes_has_a_finite_loss() -> None:
    logits, deltas = torch.randn(2, 5, 3, requires_grad=True), torch.randn(2, 5, 4, requires_grad=True)
    assigned = torch.full((2, 5), NOTHING)
    loss = detection_loss(logits, deltas, ANCHORS, assigned, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), 1.0)
    loss.backward()
    assert loss.isfinite()
    assert loss > 0
    assert logits.grad.isfinite().all()
