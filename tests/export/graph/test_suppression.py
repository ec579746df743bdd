"""The suppression in the graph finds what `models.networks.retinanet.detections.detect` finds, in every batch."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor

from aaserve.export.errors import ExportError
from aaserve.export.graph.convert import OPSET
from aaserve.export.graph.suppression import append_suppression
from aaserve.export.request import Selection
from aaserve.models.networks.retinanet.anchors import make_anchors
from aaserve.models.networks.retinanet.boxes import encode
from aaserve.models.networks.retinanet.detections import CANDIDATES, Detections, detect

SIZE = (48, 64)
ANCHORS = make_anchors(SIZE, (3, 4, 5), base=2.0, scales=2)  # (A, 4)
Answer = dict[str, np.ndarray]


def graph(classes: int, anchors: Tensor = ANCHORS, **selection: float) -> Callable[[Tensor, Tensor], Answer]:
    """A graph that is given raw outputs and answers detections."""
    raw = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": {OPSET}]>
        raw (float[batch, {len(anchors)}, {classes}] logits, float[batch, {len(anchors)}, 4] deltas)
            => (float[batch, {len(anchors)}, {classes}] class_logits, float[batch, {len(anchors)}, 4] box_deltas)
        {{ class_logits = Identity (logits) box_deltas = Identity (deltas) }}"""
    ).SerializeToString()
    model = append_suppression(raw, anchors.numpy(), SIZE, Selection(**selection))
    assert {node.domain for node in onnx.load_model_from_string(model).graph.node} == {""}  # standard operators
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(logits: Tensor, deltas: Tensor) -> Answer:
        answers = session.run(names, {"logits": logits.numpy(), "deltas": deltas.numpy()})
        return dict(zip(names, answers, strict=True))

    return run


def assert_same(found: Answer, expected: Detections) -> None:
    assert list(found) == list(expected._fields)
    for name, values in expected._asdict().items():
        assert found[name].dtype == values.numpy().dtype
        np.testing.assert_allclose(found[name], values.numpy(), atol=1e-4, rtol=1e-5, err_msg=name)


def raw(rows: int, classes: int, seed: int = 0, spread: float = 2.0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, len(ANCHORS), classes, generator=random) * spread - 3
    return logits, torch.randn(rows, len(ANCHORS), 4, generator=random) * 0.3


@pytest.mark.parametrize("rows", [1, 2, 32])
@pytest.mark.parametrize(
    ("classes", "selection"),
    [
        (1, {}),
        (3, {}),
        (80, {"score_threshold": 0.3}),
        (3, {"iou_threshold": 0.1, "max_detections": 7}),
        (3, {"score_threshold": 0.0, "iou_threshold": 0.9, "max_detections": CANDIDATES}),
    ],
    ids=["one class", "three", "eighty", "few", "all candidates"],
)
def test_the_detections_are_those_of_pytorch(rows: int, classes: int, selection: dict[str, float]) -> None:
    logits, deltas = raw(rows, classes)
    options = {"score_threshold": 0.05, "iou_threshold": 0.5, "max_detections": 100, **selection}
    found = graph(classes, **options)(logits, deltas)
    expected = detect(logits, deltas, ANCHORS, image_size=SIZE, **options)
    assert expected.count.min() > 0
    assert_same(found, expected)


def test_each_picture_of_a_batch_gets_what_it_gets_alone() -> None:
    """Also where one finds nothing, and another one more than there are rows."""
    logits, deltas = raw(4, 3)
    logits[1] = -20
    logits[2] += 6
    run = graph(3, max_detections=20)
    together = run(logits, deltas)
    assert together["count"].tolist()[1:3] == [0, 20]
    for row in range(4):
        alone = run(logits[row : row + 1], deltas[row : row + 1])
        for name, values in alone.items():
            np.testing.assert_allclose(values[0], together[name][row], atol=1e-5, err_msg=name)


def placed(*boxes: tuple[list[float], int, float]) -> tuple[Tensor, Tensor]:
    """Raw outputs that say these boxes, with their class of two and their score, and nothing else."""
    logits, deltas = torch.full((1, len(ANCHORS), 2), -20.0), torch.zeros(1, len(ANCHORS), 4)
    for anchor, (box, kind, score) in enumerate(boxes):
        deltas[0, anchor] = encode(torch.tensor(box), ANCHORS[anchor])
        logits[0, anchor, kind] = torch.tensor(score).logit()
    return logits, deltas


def test_without_a_detection_all_rows_are_zeros() -> None:
    found = graph(2, max_detections=5)(*placed())
    assert found["count"].tolist() == [0]
    assert not any(values.any() for values in found.values())


def test_of_many_boxes_of_a_class_at_one_place_the_best_stays() -> None:
    found = graph(2, max_detections=5)(*placed(*(([10, 10, 30, 30], 1, 0.3 + number / 100) for number in range(50))))
    assert found["count"].tolist() == [1]
    assert found["classes"][0].tolist() == [1, 0, 0, 0, 0]
    np.testing.assert_allclose(found["scores"][0], [0.79, 0, 0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(found["boxes"][0, 0], [10, 10, 30, 30], atol=1e-4)


def test_the_same_box_of_two_classes_is_two_detections() -> None:
    """Also at the far corner, where the boxes of a class come nearest to those of the next one."""
    box = [40, 24, 64, 48]
    found = graph(2, max_detections=5)(*placed((box, 0, 0.6), (box, 1, 0.9), (box, 1, 0.8)))
    assert found["count"].tolist() == [2]
    assert found["classes"][0, :2].tolist() == [1, 0]
    np.testing.assert_allclose(found["boxes"][0, :2], [box, box], atol=1e-4)


def test_logits_that_differ_by_less_than_their_scores_can_show_decide() -> None:
    """At a logit of 8, float32 has steps of 1e-6, and its sigmoid hardly changes with them."""
    random = torch.Generator().manual_seed(0)
    _, deltas = raw(1, 1)
    steps = torch.randperm(len(ANCHORS), generator=random) * 2e-6
    logits = (8 + steps).view(1, -1, 1)
    assert len(logits.unique()) == len(ANCHORS)
    found = graph(1, max_detections=50)(logits, deltas)
    assert_same(found, detect(logits, deltas, ANCHORS, image_size=SIZE, max_detections=50))


def test_of_equal_logits_the_first_anchor_decides() -> None:
    """In float16 many logits are equal."""
    logits, deltas = raw(2, 3)
    logits = logits.round()
    found = graph(3, max_detections=50)(logits, deltas)
    assert_same(found, detect(logits, deltas, ANCHORS, image_size=SIZE, max_detections=50))


def test_wild_outputs_give_finite_boxes_inside_the_picture() -> None:
    logits, deltas = raw(2, 3)
    deltas *= 1e4
    logits[0] *= 1e4
    found = graph(3, max_detections=50)(logits, deltas)
    assert all(np.isfinite(values).all() for values in found.values())
    assert found["boxes"].min() >= 0
    assert (found["boxes"] <= np.array([64, 48, 64, 48])).all()
    assert (found["scores"] <= 1).all()
    assert_same(found, detect(logits, deltas, ANCHORS, image_size=SIZE, max_detections=50))


def test_there_may_be_fewer_candidates_than_detections_are_asked_for() -> None:
    with pytest.raises(
        ExportError, match=r"--max-detections: expected at most 6, the candidates of a picture, found 7"
    ):
        graph(2, ANCHORS[:3], max_detections=7)
    logits, deltas = raw(1, 2)
    found = graph(2, ANCHORS[:3], max_detections=6)(logits[:, :3], deltas[:, :3])
    assert found["boxes"].shape == (1, 6, 4)
