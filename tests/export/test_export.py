"""python -m export, as a user types it, on small networks."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

from aaserve.bundle.bundle import open_bundle
from aaserve.bundle.preprocessing import preprocess, read_pixels
from aaserve.export import summary, verify
from aaserve.export.command import main
from tests.export.exporting import LABELS, Export, arguments, assert_refused, network
from tests.helpers import EXAMPLES, ROOT


def test_a_checkpoint_becomes_a_bundle_that_answers_as_the_network(checkpoint: Path, python: Path) -> None:
    finished = subprocess.run(
        [python, "-m", "export", str(checkpoint), *arguments(checkpoint)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    folder = checkpoint.parent / "repository" / "small" / "1"
    assert finished.stdout.strip() == str(folder)
    opened = open_bundle(folder)
    assert opened.manifest.labels == tuple(LABELS)
    assert opened.manifest.parity.batch_sizes == (1, 2, 5)
    assert opened.manifest.parity.images == 4

    session = onnxruntime.InferenceSession(opened.model_path)
    assert session.get_modelmeta().custom_metadata_map["labels"].splitlines() == LABELS
    for name in ("cat", "rocket"):
        image_bytes = (EXAMPLES / f"{name}.jpg").read_bytes()
        inputs = preprocess(image_bytes, opened.manifest.preprocessing, max_pixels=10**6)
        expected = network()(torch.from_numpy(inputs[None])).detach().numpy()
        pixels = read_pixels(image_bytes, opened.manifest.preprocessing, max_pixels=10**6)
        np.testing.assert_allclose(session.run(["logits"], {"image": pixels[None]})[0], expected, atol=1e-5)


def test_a_float32_export_takes_normalised_input(checkpoint: Path, export: Export) -> None:
    assert export(checkpoint, "--input", "float32").status == 0
    opened = open_bundle(checkpoint.parent / "repository" / "small" / "1")
    assert (opened.manifest.input.dtype, opened.manifest.input.shape) == ("float32", (3, 16, 16))
    inputs = preprocess((EXAMPLES / "cat.jpg").read_bytes(), opened.manifest.preprocessing, max_pixels=10**6)[None]
    found = onnxruntime.InferenceSession(opened.model_path).run(["logits"], {"image": inputs})[0]
    np.testing.assert_allclose(found, network()(torch.from_numpy(inputs)).detach().numpy(), atol=1e-5)


def test_a_reduced_size_for_jpeg_is_recorded_checked_and_shown(
    checkpoint: Path, export: Export, capfd: pytest.CaptureFixture
) -> None:
    assert_refused(export(checkpoint, "--jpeg-reducing-gap", "1.5"), checkpoint, "jpeg_reducing_gap")
    assert export(checkpoint, "--jpeg-reducing-gap", "3").status == 0
    folder = checkpoint.parent / "repository" / "small" / "1"
    opened = open_bundle(folder)
    assert opened.manifest.preprocessing.jpeg_reducing_gap == 3
    metadata = onnxruntime.InferenceSession(opened.model_path).get_modelmeta().custom_metadata_map
    assert json.loads(metadata["preprocessing"])["jpeg_reducing_gap"] == 3
    assert verify.main([str(folder), "--images", str(EXAMPLES)]) == 0  # the references were read reduced too
    assert summary.main([str(folder)]) == 0
    assert "JPEG decoded at 3 times that or more" in capfd.readouterr().out


def test_force_replaces_a_version_completely_and_nearly_equal_answers_cause_a_warning(
    checkpoint: Path, export: Export, capfd: pytest.CaptureFixture
) -> None:
    finished = export(checkpoint)
    assert finished.status == 0
    assert re.search(r"4 pictures for the parity check in \S*examples; left out: 1 \.md", finished.stderr)
    assert "warning" not in finished.stderr
    folder = checkpoint.parent / "repository" / "small" / "1"
    before = (folder / "model.onnx").read_bytes()
    weights = network().state_dict()
    weights["fc.weight"] *= 1e-3
    save_file(weights, checkpoint)
    assert main([str(checkpoint), *arguments(checkpoint), "--force"]) == 0
    assert "warning: different pictures get nearly the same logits" in capfd.readouterr().err
    assert open_bundle(folder).manifest.files
    assert (folder / "model.onnx").read_bytes() != before
    assert [path.name for path in folder.parent.iterdir()] == ["1"]  # nothing hidden is left


def test_the_graph_is_standard_onnx_without_external_data_and_carries_metadata(
    checkpoint: Path, export: Export
) -> None:
    assert export(checkpoint).status == 0
    model = onnx.load(checkpoint.parent / "repository" / "small" / "1" / "model.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain for opset in model.opset_import} == {""}
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in shape] == ["batch", 16, 16, 3]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["labels"].splitlines() == LABELS
    assert json.loads(metadata["preprocessing"])["resize"] == 18
    assert str(ROOT).encode() not in model.SerializeToString()  # no source paths of the exporting machine


def test_exporting_twice_gives_the_same_bytes(checkpoint: Path, export: Export, traced_anew: None) -> None:
    for version in ("1", "2"):
        assert export(checkpoint, version=version).status == 0
    first, second = sorted((checkpoint.parent / "repository" / "small").glob("*/model.onnx"))
    assert first.read_bytes() == second.read_bytes()


def test_a_pt_file_exports_too(checkpoint: Path, export: Export) -> None:
    pickled = checkpoint.with_suffix(".pt")
    torch.save(network().state_dict(), pickled)
    finished = export(pickled)
    assert finished.status == 0, finished.stderr


def test_image_size_adapts_relative_tables_crop_and_resize(checkpoint: Path, export: Export) -> None:
    finished = export(checkpoint, "--image-size", "32x24")
    assert finished.status == 0, finished.stderr
    manifest = open_bundle(checkpoint.parent / "repository" / "small" / "1").manifest
    assert manifest.input.shape == (32, 24, 3)
    assert manifest.preprocessing.crop == (32, 24)
    assert manifest.preprocessing.resize == 36
