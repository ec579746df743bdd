"""Whether a model of detection answers here as where its bundle was made, and in a lower precision as in full."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aaserve.bundle.bundle import REFERENCES_FILE, Bundle, open_bundle, sha256_of, write_bundle
from aaserve.service.engine.runtime.agreement import compare
from aaserve.service.engine.runtime.model_session import ModelSession
from aaserve.service.engine.runtime.runner import ModelRunner
from aaserve.service.engine.runtime.session import OnnxSession
from aaserve.service.errors import StartFailed
from aaserve.service.settings import Settings
from tests.detector_bundle import SIZE, write_detector

SETTINGS = Settings(provider="cpu", max_batch_size=2, intra_op_num_threads=1)
Row = tuple[tuple[float, float, float, float], float, int]
BOX, FAR = (10.0, 10.0, 30.0, 30.0), (40.0, 0.0, 60.0, 40.0)
EXACT: list[Row] = [(BOX, 0.9, 0), (FAR, 0.6, 1)]


def outputs(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """What a graph answers for one picture: up to three detections."""
    boxes, scores, classes = np.zeros((1, 3, 4), np.float32), np.zeros((1, 3), np.float32), np.zeros((1, 3), np.int64)
    for number, (box, score, class_index) in enumerate(rows):
        boxes[0, number], scores[0, number], classes[0, number] = box, score, class_index
    return {"boxes": boxes, "scores": scores, "classes": classes, "count": np.array([len(rows)])}


class Made(ModelSession):
    """A session whose answers are made up, one for each picture in turn."""

    provider, on_cpu, precision = "made", True, "bf16"

    def __init__(self, bundle: Bundle, *answers: Sequence[Row]) -> None:
        super().__init__(bundle)
        self._answers = [outputs(answer) for answer in answers]

    def run(self, batch: np.ndarray, names: Sequence[str] = ()) -> dict[str, Any]:
        return self._answers.pop(0)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """With four reference pictures."""
    pictures = [np.full((*SIZE, 3), grey, np.uint8) for grey in range(4)]
    return open_bundle(write_detector(tmp_path, pictures=pictures))


def with_probe_answer(bundle: Bundle, folder: Path, change: Mapping[str, Any]) -> Bundle:
    """The same bundle, made where the probe had another answer."""
    files = {name: bundle.content(name) for name in bundle.manifest.files}
    [reference] = json.loads(files[REFERENCES_FILE])
    reference["detections"] |= change
    files[REFERENCES_FILE] = json.dumps([reference]).encode()
    sums = {name: sha256_of(content) for name, content in files.items()}
    return open_bundle(write_bundle(folder, bundle.manifest.model_copy(update={"files": sums}), files))


def open_runner(bundle: Bundle) -> ModelRunner:
    return ModelRunner(bundle, lambda served, threads: OnnxSession(served, SETTINGS), SETTINGS, lambda: None)


def test_a_model_that_answers_the_probe_as_stored_is_loaded(bundle: Bundle) -> None:
    runner = open_runner(bundle)
    assert (runner.ready, runner.agreement) == (True, None)
    runner.close()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"scores": (1.0, 1.0, 0.9)}, "1.0e-01"),
        ({"classes": (0, 1, 1)}, "1.0e[+]00"),
        ({"boxes": ((0, 0, 64, 48), (0, 0, 64, 48), (0, 0, 20, 48))}, "1.0e[+]00"),
        ({"boxes": (), "scores": (), "classes": ()}, "1.0e[+]00"),
    ],
    ids=["another score", "another class", "another box", "no detection"],
)
def test_another_answer_to_the_probe_stops_the_load(
    bundle: Bundle, tmp_path: Path, change: dict[str, Any], found: str
) -> None:
    other = with_probe_answer(bundle, tmp_path / "other", change)
    with pytest.raises(
        StartFailed, match=f"expected the stored answer to the probe within 1e-03, found {found} on CPU"
    ):
        open_runner(other)


def test_boxes_that_overlap_more_than_the_suppression_allows_are_the_same_object(
    bundle: Bundle, tmp_path: Path
) -> None:
    """Two boxes with nearly the same score: another machine may keep the other one."""
    boxes = ((0, 0, 64, 48), (0, 0, 64, 48), (0, 0, 64, 40))
    open_runner(with_probe_answer(bundle, tmp_path / "other", {"boxes": boxes})).close()


def test_the_same_objects_with_slightly_other_scores_agree(bundle: Bundle) -> None:
    lower = [((11.0, 10.0, 30.0, 31.0), 0.85, 0), (FAR, 0.62, 1), ((0.0, 0.0, 5.0, 5.0), 0.45, 2)]  # one is uncertain
    agreement = compare(Made(bundle, *[lower] * 5), Made(bundle, *[EXACT] * 5), bundle)
    assert (agreement.precision, agreement.pictures, agreement.same_best_class) == ("bf16", 5, 5)
    assert agreement.max_difference == pytest.approx(0.05)


def test_a_score_of_the_probe_that_changes_too_much_stops_the_load(bundle: Bundle) -> None:
    lower = [(BOX, 0.6, 0), (FAR, 0.6, 1)]
    with pytest.raises(StartFailed, match=r"the answer to the probe in bf16 within 2e-01 of fp32, found 3.0e-01"):
        compare(Made(bundle, *[lower] * 5), Made(bundle, *[EXACT] * 5), bundle)


@pytest.mark.parametrize(
    "lower",
    [[(BOX, 0.9, 0)], [(BOX, 0.9, 0), (FAR, 0.6, 2)], [(BOX, 0.9, 0), (BOX, 0.6, 1)], [*EXACT, (FAR, 0.55, 0)]],
    ids=["one missing", "another class", "another place", "one more"],
)
def test_other_objects_in_too_many_reference_pictures_stop_the_load(bundle: Bundle, lower: list[Row]) -> None:
    agreement = compare(Made(bundle, EXACT, lower, *[EXACT] * 3), Made(bundle, *[EXACT] * 5), bundle)
    assert (agreement.pictures, agreement.same_best_class) == (5, 4)
    with pytest.raises(
        StartFailed, match=r"bf16 to change the objects of at most 25% .* found 2 of 4 \(cpu_precision\)"
    ):
        compare(Made(bundle, EXACT, lower, lower, EXACT, EXACT), Made(bundle, *[EXACT] * 5), bundle)
