"""Models in OpenVINO: the same answers as ONNX Runtime's, in the precision that was asked for and no other."""

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from aaserve.bundle.bundle import MODEL_FILE, Bundle, open_bundle, sha256_of, write_bundle
from aaserve.bundle.model_input import read_input
from aaserve.bundle.references.pictures import stored_pictures
from aaserve.bundle.references.references import gaze
from aaserve.service.engine.runtime import openvino_runtime
from aaserve.service.engine.runtime.agreement import compare
from aaserve.service.engine.runtime.model_session import ModelSession
from aaserve.service.engine.runtime.openvino_session import OpenVinoSession
from aaserve.service.engine.runtime.runner import ModelRunner
from aaserve.service.engine.runtime.session import OnnxSession
from aaserve.service.errors import ProviderMissing, StartFailed
from aaserve.service.settings import Settings
from tests.detector_bundle import coloured, write_detector
from tests.helpers import EXAMPLES, REPOSITORY, SHIPPED

pytest.importorskip("openvino", reason="the extra openvino is not installed")

SMALL = REPOSITORY / "aa-cifar100" / "1"
SETTINGS = Settings(provider="openvino", intra_op_num_threads=2, max_batch_size=4)
BF16 = SETTINGS.model_copy(update={"cpu_precision": "bf16"})
with_bf16 = pytest.mark.skipif(not openvino_runtime.has_bf16(), reason="this processor has no instructions for bf16")


def pictures(bundle: Bundle) -> np.ndarray:
    """Rows of the model's input, one for each example."""
    return np.stack(
        [read_input(path.read_bytes(), bundle.manifest, max_pixels=10**8) for path in sorted(EXAMPLES.glob("*.jpg"))]
    )


@pytest.mark.parametrize("model", ["aa-cifar100", "aa-imagenet"])
def test_fp32_answers_are_those_of_onnx_runtime(model: str) -> None:
    bundle = open_bundle(SHIPPED / model / "1")
    manifest = bundle.manifest
    names = [output.name for output in manifest.all_outputs]
    rows = pictures(bundle)
    session, other = OpenVinoSession(bundle, SETTINGS), OnnxSession(bundle, Settings(provider="cpu"))
    assert (session.provider, session.precision, session.in_fp32()) == ("OpenVINO", "fp32", None)
    session.warm_up()
    found, expected = session.run(rows, names), other.run(rows, names)
    assert list(found) == names
    largest = max(1.0, np.abs(expected["logits"]).max())
    assert np.abs(found["logits"] - expected["logits"]).max() / largest <= 1e-4
    for layer in manifest.attention:
        shown, known = (gaze(outputs[layer.output][0], layer.grid) for outputs in (found, expected))
        np.testing.assert_allclose(shown, known, atol=1e-3)
    assert list(session.run(rows[:1])) == ["logits"]


def test_threads_that_share_a_session_get_the_answers_of_each_row_alone() -> None:
    bundle = open_bundle(SMALL)
    rows = pictures(bundle)
    session = OpenVinoSession(bundle, SETTINGS)
    alone = [session.run(row[np.newaxis])["logits"][0] for row in rows]
    found: list[tuple[int, np.ndarray]] = []

    def work(size: int) -> None:
        for _ in range(20):
            for first in range(0, len(rows), size):
                answers = session.run(rows[first : first + size])["logits"]
                found.extend(zip(range(first, len(rows)), answers, strict=False))

    threads = [threading.Thread(target=work, args=(size,)) for size in (1, 2, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 * 20 * len(rows)
    for row, answer in found:  # also: what one call returned, later calls have not written over
        np.testing.assert_allclose(answer, alone[row], rtol=1e-4, atol=1e-4)


def test_outputs_of_any_shape_and_type_come_as_the_graph_gives_them(tmp_path: Path) -> None:
    detector = open_bundle(write_detector(tmp_path))
    session = OpenVinoSession(detector, SETTINGS)
    session.warm_up()
    red = np.asarray(coloured(64, 48, red=((3, 5, 20, 30), 204)))
    found = session.run(np.stack([red, red * 0]))
    assert {name: (values.dtype.name, values.shape) for name, values in found.items()} == {
        "boxes": ("float32", (2, 3, 4)),
        "scores": ("float32", (2, 3)),
        "classes": ("int64", (2, 3)),
        "count": ("int64", (2,)),
    }
    np.testing.assert_array_equal(found["boxes"][0], [[3, 5, 20, 30], [0] * 4, [0] * 4])
    np.testing.assert_array_equal(found["count"], [1, 0])
    manifest = detector.manifest
    swapped = manifest.model_copy(update={"outputs": manifest.outputs[::-1]})
    with pytest.raises(StartFailed, match=r"expected the output \('count', 'int64', \(\)\), \('classes'"):
        OpenVinoSession(Bundle(detector.folder, swapped, ""), SETTINGS)


@pytest.mark.parametrize("model", ["aa-cifar100", "aa-imagenet", "aa-blood-cells"])
def test_compiled_for_one_row_a_model_answers_as_before(model: str) -> None:
    bundle = open_bundle(SHIPPED / model / "1")
    names = [output.name for output in bundle.manifest.all_outputs]
    rows = pictures(bundle)
    session = OpenVinoSession(bundle, SETTINGS)
    before = [session.run(row[np.newaxis], names) for row in rows]
    session.only_one_row()
    session.warm_up()
    for row, expected in zip(rows, before, strict=True):
        for name, values in session.run(row[np.newaxis], names).items():
            np.testing.assert_allclose(values, expected[name], rtol=1e-3, atol=1e-3)
    with pytest.raises(RuntimeError):
        session.run(rows[:2])


def test_the_runner_has_models_of_one_row_a_call_compiled_for_that() -> None:
    slow = SETTINGS.model_copy(update={"cpu_batch_ms": 0.001})  # no second row is computed in so short a time
    runner = ModelRunner(open_bundle(SMALL), lambda *args: OpenVinoSession(args[0], slow), slow, lambda: None)
    rows = pictures(open_bundle(SMALL))
    assert (runner.max_rows, runner.run(rows[:1])["logits"].shape) == (1, (1, 100))
    with pytest.raises(RuntimeError):
        runner.run(rows[:2])


def test_the_runner_keeps_a_model_in_openvino_as_it_keeps_others() -> None:
    runner = ModelRunner(open_bundle(SMALL), lambda *args: OpenVinoSession(args[0], SETTINGS), SETTINGS, lambda: None)
    assert (runner.provider, runner.on_cpu, runner.lanes, runner.agreement) == ("OpenVINO", True, 2, None)
    runner.recover()
    assert runner.run(pictures(open_bundle(SMALL)))["logits"].shape == (4, 100)
    runner.close()


@with_bf16
def test_bf16_is_compared_with_fp32_when_the_model_is_loaded() -> None:
    bundle = open_bundle(SMALL)
    runner = ModelRunner(bundle, lambda *args: OpenVinoSession(args[0], BF16), BF16, lambda: None)
    agreement = runner.agreement
    assert agreement is not None
    assert (agreement.precision, agreement.pictures, agreement.same_best_class) == ("bf16", 1, 1)
    assert 1e-5 < agreement.max_difference < 0.05  # bf16 has 8 bits of fraction, and something is computed in it


def test_without_being_asked_for_bf16_is_not_used() -> None:
    """OpenVINO takes it by itself wherever the processor has it."""
    bundle = open_bundle(SMALL)
    compiled = openvino_runtime.compiled(bundle.content(MODEL_FILE), precision="fp32", streams=1, threads=1)
    assert "float32" in str(compiled.get_property("INFERENCE_PRECISION_HINT"))


def test_bf16_is_refused_where_the_processor_has_no_instructions_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_runtime, "has_bf16", lambda: False)
    OpenVinoSession(open_bundle(SMALL), SETTINGS)
    with pytest.raises(ProviderMissing, match=r"^cpu_precision: expected a processor with instructions for bf16"):
        OpenVinoSession(open_bundle(SMALL), BF16)


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    openvino_runtime.core.cache_clear()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ProviderMissing, match=r"^provider: expected the extra openvino \(pip install .*openvino\]'\)"):
        OpenVinoSession(open_bundle(SMALL), SETTINGS)


def test_a_graph_that_openvino_does_not_know_is_refused_in_one_line(tmp_path: Path) -> None:
    bundle = open_bundle(SMALL)
    model = onnx.load_model_from_string(bundle.content(MODEL_FILE))
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(helper.make_node("Unheard", ["before"], ["logits"]))
    files = {MODEL_FILE: model.SerializeToString(), "references.json": b"[]"}
    manifest = bundle.manifest.model_copy(update={"files": {name: sha256_of(one) for name, one in files.items()}})
    strange = Bundle(write_bundle(tmp_path, manifest, files), manifest, "")
    with pytest.raises(StartFailed) as refused:
        OpenVinoSession(strange, SETTINGS)
    message = str(refused.value)
    assert message.startswith(f"{strange.model_path}: expected a model that OpenVINO compiles, found: ")
    assert "Unheard" in message
    assert "\n" not in message


class Made(ModelSession):
    """A session whose answers are made up: of each picture in turn, (4,) logits."""

    provider, on_cpu, precision = "made", True, "bf16"

    def __init__(self, bundle: Bundle, *logits: Sequence[float]) -> None:
        super().__init__(bundle)
        self._logits = list(logits)

    def run(self, batch: np.ndarray, names: Sequence[str] = ()) -> dict[str, Any]:
        return {"logits": np.array([self._logits.pop(0)], np.float32)}


def test_answers_that_bf16_changes_too_much_stop_the_load() -> None:
    bundle = open_bundle(SMALL)
    exact = (0, 0, 2, 10)
    with pytest.raises(StartFailed, match=r"the answer to the probe in bf16 within 2e-01 of fp32, found 3.0e-01"):
        compare(Made(bundle, (3, 0, 2, 10)), Made(bundle, exact), bundle)
    with pytest.raises(StartFailed, match=r"found nan \(cpu_precision\)"):
        compare(Made(bundle, (np.nan, 0, 2, 10)), Made(bundle, exact), bundle)
    agreement = compare(Made(bundle, (1, 0, 2, 10)), Made(bundle, exact), bundle)
    assert (agreement.pictures, agreement.same_best_class) == (1, 1)
    assert agreement.max_difference == pytest.approx(0.1)


def test_best_classes_of_too_many_reference_pictures_stop_the_load(tmp_path: Path) -> None:
    """One of four may change: with so few pictures, that says little of a network."""
    shipped = open_bundle(SMALL)
    stored = stored_pictures([np.full((32, 32, 3), grey, np.uint8) for grey in range(4)])
    files = {name: shipped.content(name) for name in shipped.manifest.files} | stored
    sums = {name: sha256_of(content) for name, content in files.items()}
    bundle = open_bundle(write_bundle(tmp_path, shipped.manifest.model_copy(update={"files": sums}), files))
    probe, same, other = (9.0, 10.0), (1.0, 1.1), (1.1, 1.0)
    exact = [probe, same, same, same, same]
    agreement = compare(Made(bundle, probe, same, other, same, same), Made(bundle, *exact), bundle)
    assert (agreement.pictures, agreement.same_best_class) == (5, 4)
    with pytest.raises(StartFailed, match=r"at most 25% of the bundle's pictures, found 2 of 4 \(cpu_precision\)"):
        compare(Made(bundle, probe, same, other, other, same), Made(bundle, *exact), bundle)
