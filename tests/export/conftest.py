"""Networks are traced once for all tests of the exporter: see tests/traces.py."""

from collections.abc import Iterator

import pytest
import torch

from tests.traces import Traces

TRACE = torch.onnx.export


@pytest.fixture(autouse=True, scope="package")
def shared_traces(pytestconfig: pytest.Config) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", Traces(pytestconfig.cache.mkdir("traces")).export)
        yield


@pytest.fixture
def traced_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test that is about tracing itself."""
    monkeypatch.setattr(torch.onnx, "export", TRACE)
