"""Networks to export. They are traced once for all tests of the exporter: see tests/traces.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from aaserve.export.command import main
from tests.export.exporting import LABELS, PREPROCESSING, Export, Finished, arguments, network
from tests.export.lowering import train
from tests.helpers import ROOT
from tests.traces import Traces

TRACE = torch.onnx.export


@pytest.fixture(autouse=True, scope="package")
def shared_traces() -> Iterator[None]:
    folder = ROOT / ".pytest_cache" / "traces"  # git ignores it, and `make clean` removes it
    folder.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", Traces(folder).export)
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


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small network that tells three colours apart, and labelled pictures of them in `pictures`."""
    return train(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "labels.txt").write_text("\n".join(LABELS) + "\n")
    (tmp_path / "preprocessing.toml").write_text(PREPROCESSING)
    save_file(network().state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Export:
    """The command, without a new interpreter for each (importing torch takes seconds)."""
    monkeypatch.chdir(ROOT)

    def run(checkpoint: Path, *options: str, version: str = "1") -> Finished:
        status = main([str(checkpoint), *arguments(checkpoint, *options, version=version)])
        captured = capfd.readouterr()
        return Finished(status, captured.out, captured.err)

    return run
