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
