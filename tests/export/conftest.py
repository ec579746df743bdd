"""Networks are traced once for all tests of the exporter: see tests/traces.py."""

from collections.abc import Iterator

import pytest
import torch

from tests.traces import Traces

TRACE = torch.onnx.export


@pytest.fixture(autouse=True, scope="package")
def shared_traces() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", Traces().export)
        yield


@pytest.fixture
def traced_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test that is about tracing itself."""
    monkeypatch.setattr(torch.onnx, "export", TRACE)


@pytest.fixture
def speed_in_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """The speed is reported and never judged, so it may be inexact here."""
    monkeypatch.setattr("aaserve.export.judgement.speed.ROUNDS", 1)
    monkeypatch.setattr("aaserve.export.judgement.speed.PAUSE", 0)
