"""Exports of ONNX files."""

from pathlib import Path

import onnx
import pytest

from aaserve.export.command import main
from tests.export.sources.classifiers import LABELS, NORMALISED, Run
from tests.helpers import EXAMPLES


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Run:
    """Save a model, or bytes, and export it."""
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    monkeypatch.chdir(tmp_path)

    def export(model: onnx.ModelProto | bytes, *options: str) -> tuple[int, str]:
        Path("given.onnx").write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        fixed = ["--labels", "labels.txt", "--resize", "16", "--crop", "16", "--interpolation", "bilinear", *NORMALISED]
        fixed += ["--background", "0,0,0", "--exif-orientation", "--name", "given", "--version", "1"]
        fixed += ["--repository", "repository", "--max-batch-size", "3", "--parity-images", str(EXAMPLES)]
        status = main(["given.onnx", *fixed, *options])
        return status, capfd.readouterr().err

    return export
