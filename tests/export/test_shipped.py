"""What ships is whole and small, and the shipped checkpoint and its bundle belong together."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from aaserve.bundle.bundle import open_bundle, sha256_of, write_bundle
from aaserve.export import summary, verify
from aaserve.export.command import main
from tests.helpers import EXAMPLES, REPOSITORY, ROOT, running_service
from tests.helpers import SHIPPED as MODEL_REPOSITORY

SHIPPED = REPOSITORY / "aa-cifar100"
MODELS = sorted(path.name for path in MODEL_REPOSITORY.iterdir() if path.is_dir())
LARGEST = 10_000_000  # bytes of a model in the repository, which every clone fetches


def test_exporting_the_shipped_checkpoint_gives_the_shipped_bundles_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    arguments = ["model_repository/aa-cifar100/checkpoint.safetensors", "--name", "aa-cifar100", "--version", "1"]
    assert main([*arguments, "--repository", str(tmp_path), "--with-attention"]) == 0
    again, shipped = open_bundle(tmp_path / "aa-cifar100" / "1"), open_bundle(SHIPPED / "1")
    assert again.manifest.provenance.checkpoint_sha256 == shipped.manifest.provenance.checkpoint_sha256
    assert again.manifest.labels == shipped.manifest.labels
    assert again.manifest.preprocessing == shipped.manifest.preprocessing
    assert again.manifest.attention == shipped.manifest.attention != ()
    inputs = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    answers = [
        onnxruntime.InferenceSession(opened.model_path).run(None, {"image": inputs}) for opened in (again, shipped)
    ]
    for found, expected in zip(*answers, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_shipped_network_has_attention_and_a_measured_accuracy() -> None:
    manifest = open_bundle(SHIPPED / "1").manifest
    assert manifest.architecture.startswith("aa_")
    assert manifest.accuracy is not None
    assert manifest.accuracy.images == 10_000
    assert manifest.accuracy.top_1 >= 0.62
    assert "http" in manifest.accuracy.measured.lower()


def test_the_shipped_bundle_verifies_without_torch() -> None:
    script = (
        "import sys; sys.modules['torch'] = None; from aaserve.export.verify import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", script, "model_repository/aa-cifar100/1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "5 pictures answered as when it was made" in done.stdout


@pytest.mark.parametrize("name", MODELS)
def test_each_model_that_ships_verifies_and_is_small(name: str) -> None:
    [version] = [path for path in (MODEL_REPOSITORY / name).iterdir() if path.is_dir()]
    assert verify.main([str(version)]) == 0
    assert sum(path.stat().st_size for path in (MODEL_REPOSITORY / name).rglob("*") if path.is_file()) <= LARGEST


def test_the_shipped_repository_answers_a_request_that_names_no_model() -> None:
    with running_service(repository=MODEL_REPOSITORY) as service:
        listed = service.client.get("/models").json()
        assert [model["name"] for model in listed["models"] if model["versions"]] == MODELS
        answer = service.classify((EXAMPLES / "rocket.jpg").read_bytes())
        assert answer.json()["model"] == listed["default_model"]


def test_inspect_prints_a_summary(capsys: pytest.CaptureFixture) -> None:
    assert summary.main([str(SHIPPED / "1")]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["what"].startswith("aa-cifar100 version 1: aa_wide_resnet22_2")
    assert lines["labels"].startswith("100: apple, ")
    assert "Softmax" in lines["operators"]


def test_verify_rejects_a_bundle_with_other_answers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shipped = open_bundle(SHIPPED / "1")
    references = json.loads((SHIPPED / "1" / "references.json").read_text())
    references[0]["logits"][0] += 0.01
    changed = json.dumps(references).encode()
    model = (SHIPPED / "1" / "model.onnx").read_bytes()
    files = {"model.onnx": sha256_of(model), "references.json": sha256_of(changed)}
    manifest = shipped.manifest.model_copy(update={"files": files})
    folder = write_bundle(tmp_path, manifest, {"model.onnx": model, "references.json": changed})
    assert verify.main([str(folder), "--images", str(ROOT / "examples")]) == 1
    assert "expected the stored logits" in capsys.readouterr().err
    assert verify.main([str(SHIPPED / "1"), "--images", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "expected a picture that the bundle was compared on, found: No such file or directory; " in error
    assert "give their folder with --images" in error
