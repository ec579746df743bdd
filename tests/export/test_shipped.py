"""The shipped checkpoint and the shipped bundle belong together."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from bundle.bundle import open_bundle
from tests.helpers import REPOSITORY, ROOT

SHIPPED = REPOSITORY / "aa-cifar100"


def test_exporting_the_shipped_checkpoint_gives_the_shipped_bundles_answers(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "export", "model_repository/aa-cifar100/checkpoint.safetensors"]
    command += ["--name", "aa-cifar100", "--version", "1", "--repository", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    again, shipped = open_bundle(tmp_path / "aa-cifar100" / "1"), open_bundle(SHIPPED / "1")
    assert again.manifest.provenance.checkpoint_sha256 == shipped.manifest.provenance.checkpoint_sha256
    assert again.manifest.labels == shipped.manifest.labels
    assert again.manifest.preprocessing == shipped.manifest.preprocessing
    inputs = np.random.default_rng(0).normal(size=(16, 3, 32, 32)).astype(np.float32)
    found, expected = (
        onnxruntime.InferenceSession(opened.model_path).run(None, {"image": inputs})[0] for opened in (again, shipped)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_shipped_network_attends_and_was_measured() -> None:
    manifest = open_bundle(SHIPPED / "1").manifest
    assert manifest.architecture.startswith("aa_")
    assert manifest.accuracy is not None
    assert manifest.accuracy.images == 10_000
    assert manifest.accuracy.top_1 >= 0.62
    assert "http" in manifest.accuracy.measured.lower()
