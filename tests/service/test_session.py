"""The model runs where it was asked to, or not at all."""

import warnings

import numpy as np
import onnxruntime
import pytest

from bundle.bundle import open_bundle
from service.errors import StartFailed
from service.session import OnnxSession
from tests.helpers import REPOSITORY

SHIPPED = open_bundle(REPOSITORY / "aa-cifar100" / "1")


def claim_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that has the CUDA provider on a machine that cannot load it: ONNX Runtime takes the CPU then."""
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    warnings.simplefilter("ignore")  # ONNX Runtime's own word on it


def test_falling_back_to_the_cpu_behind_our_back_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    claim_cuda(monkeypatch)
    with pytest.raises(StartFailed, match="provider: expected CUDAExecutionProvider, found CPUExecutionProvider"):
        OnnxSession(SHIPPED, provider="cuda", intra_op_num_threads=1, max_batch_size=4)


def test_auto_takes_the_cpu_where_cuda_does_not_work_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    claim_cuda(monkeypatch)
    session = OnnxSession(SHIPPED, provider="auto", intra_op_num_threads=1, max_batch_size=4)
    assert session.provider == "CPUExecutionProvider"
    assert "provider auto: no CUDA" in caplog.text


def test_runs_batches_of_any_size() -> None:
    session = OnnxSession(SHIPPED, provider="cpu", intra_op_num_threads=1, max_batch_size=4)
    session.warm_up()
    assert session.run(np.zeros((3, 32, 32, 3), np.uint8)).shape == (3, 100)


@pytest.mark.parametrize(("largest", "sizes"), [(1, [1]), (2, [1, 2]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])])
def test_where_new_shapes_cost_batches_are_padded_to_sizes_that_are_warm(
    monkeypatch: pytest.MonkeyPatch, largest: int, sizes: list[int]
) -> None:
    session = OnnxSession(SHIPPED, provider="cpu", intra_op_num_threads=1, max_batch_size=largest, pad=True)
    plain = OnnxSession(SHIPPED, provider="cpu", intra_op_num_threads=1, max_batch_size=largest)
    seen: list[int] = []
    run = onnxruntime.InferenceSession.run

    def counting(self: onnxruntime.InferenceSession, outputs: list, inputs: dict) -> list:
        seen.append(len(next(iter(inputs.values()))))
        return run(self, outputs, inputs)

    pictures = np.random.default_rng(0).integers(0, 256, (largest, 32, 32, 3), dtype=np.uint8)
    expected = [plain.run(pictures[:rows]) for rows in range(1, largest + 1)]
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", counting)
    session.warm_up()
    assert seen == sizes
    for rows in range(1, largest + 1):
        found = session.run(pictures[:rows])
        np.testing.assert_allclose(found, expected[rows - 1], rtol=1e-3, atol=1e-3)
    assert set(seen) == set(sizes)


def test_the_cpu_pays_nothing_for_new_shapes_and_pads_nothing() -> None:
    session = OnnxSession(SHIPPED, provider="cpu", intra_op_num_threads=1, max_batch_size=8)
    assert session.warm_sizes == [1, 8]
