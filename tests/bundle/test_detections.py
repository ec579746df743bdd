"""When two sets of detections are the same."""

import numpy as np
import pytest

from aaserve.bundle.detections import Detections, Difference, detections_of, difference, intersection_over_union

BOX, FAR = (10, 10, 30, 30), (100, 100, 120, 140)


def detections(*rows: tuple[tuple[float, ...], float, int]) -> Detections:
    boxes, scores, classes = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(classes, int))


EXPECTED = detections((BOX, 0.9, 0), (FAR, 0.6, 1))


@pytest.mark.parametrize(
    ("found", "score", "iou", "matched"),
    [
        (EXPECTED, 0, 1, 4),
        (detections((FAR, 0.61, 1), (BOX, 0.6, 0)), 0.3, 1, 4),
        (detections(((10, 10, 30, 20), 0.9, 0), (FAR, 0.6, 1)), 0, 0.5, 4),
        (detections((BOX, 0.9, 1), (FAR, 0.6, 1)), 0.9, 0, 2),
        (detections((BOX, 0.9, 0)), 0.6, 0, 2),
        (detections(), 0.9, 0, 0),
        (detections((BOX, 0.9, 0), (BOX, 0.8, 0), (FAR, 0.6, 1)), 0.8, 0, 4),
    ],
    ids=["the same", "other scores", "half a box", "another class", "one missing", "none", "one twice"],
)
def test_each_detection_has_a_counterpart_or_counts_as_missing(
    found: Detections, score: float, iou: float, matched: int
) -> None:
    result = difference(found, EXPECTED, score_threshold=0.5)
    assert result[:2] == (pytest.approx(score, abs=1e-6), pytest.approx(iou))
    assert result.matched == matched


def test_boxes_that_overlap_too_little_do_not_belong_together() -> None:
    found = detections(((10, 10, 30, 20), 0.8, 0), (FAR, 0.6, 1))
    assert difference(found, EXPECTED, score_threshold=0.5, least_iou=0.5).matched == 4
    assert difference(found, EXPECTED, score_threshold=0.5, least_iou=0.6) == Difference(pytest.approx(0.9), 0, 2, 4)


def test_a_score_that_crosses_the_threshold_still_finds_its_counterpart() -> None:
    found = detections((BOX, 0.9, 0), (FAR, 0.499, 1), ((0, 0, 5, 5), 0.4, 0))
    expected = detections((BOX, 0.9, 0), (FAR, 0.501, 1))
    assert difference(found, expected, score_threshold=0.5) == Difference(pytest.approx(0.002, abs=1e-6), 1, 3, 3)


def test_a_score_that_is_no_number_makes_the_difference_none() -> None:
    found = detections((BOX, np.nan, 0), (FAR, 0.6, 1))
    assert np.isnan(difference(found, EXPECTED, score_threshold=0.5).score)


def test_pictures_without_detections_agree() -> None:
    assert difference(detections(), detections(), score_threshold=0.5) == Difference(0, 1, 0, 0)


def test_only_rows_up_to_the_count_are_detections() -> None:
    row = {"boxes": np.ones((3, 4)), "scores": np.arange(3), "classes": np.arange(3), "count": np.array(2)}
    assert [len(values) for values in detections_of(row)] == [2, 2, 2]


def test_intersection_over_union_of_all_pairs() -> None:
    boxes = np.array([(0, 0, 2, 2), (1, 1, 3, 3), (5, 5, 5, 9)], np.float32)
    expected = [[1, 1 / 7, 0], [1 / 7, 1, 0], [0, 0, 1]]  # the last has no area
    np.testing.assert_allclose(intersection_over_union(boxes, boxes), expected)
