"""python -m export, as a user types it, on small networks."""

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
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
from aaserve.models import create_model
from tests.helpers import EXAMPLES, ROOT

Export = Callable[..., "Finished"]
LABELS = ["ant", "bee", "cat", "dog", "eel"]
PREPROCESSING = """
[preprocessing]
colour = "RGB"
background = [255, 255, 255]
exif_orientation = true
resize = 18
interpolation = "bilinear"
crop = [16, 16]
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
"""


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    made = create_model("aa_wide_resnet10_1", num_classes=len(LABELS), image_size=(16, 16))
    with torch.no_grad():
        made(torch.randn(8, 3, 16, 16))  # gives the normalisations other statistics than zero and one
    return made.eval()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "labels.txt").write_text("\n".join(LABELS) + "\n")
    (tmp_path / "preprocessing.toml").write_text(PREPROCESSING)
    save_file(network().state_dict(), tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@dataclass
class Finished:
    """What a command printed, and how it ended."""

    status: int
    stdout: str
    stderr: str


@pytest.fixture
def export(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Export:
    """The command, without a new interpreter for each (importing torch takes seconds)."""
    monkeypatch.chdir(ROOT)

    def run(checkpoint: Path, *options: str, version: str = "1") -> Finished:
        status = main([str(checkpoint), *arguments(checkpoint, *options, version=version)])
        captured = capfd.readouterr()
        return Finished(status, captured.out, captured.err)

    return run


def arguments(checkpoint: Path, *options: str, version: str = "1") -> list[str]:
    folder = checkpoint.parent
    given = {
        "--arch": "aa_wide_resnet10_1",
        "--labels": str(folder / "labels.txt"),
        "--preprocessing": str(folder / "preprocessing.toml"),
        "--name": "small",
        "--version": version,
        "--repository": str(folder / "repository"),
        "--max-batch-size": "5",
    }
    given |= dict(zip(options[::2], options[1::2], strict=True))
    return [word for option in given.items() for word in option]


def assert_refused(finished: Finished, checkpoint: Path, message: str) -> None:
    errors = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert finished.status == 1, finished.stderr
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in finished.stderr
    assert list((checkpoint.parent / "repository").glob("*/*")) == []


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


def test_num_classes_must_match_the_head(checkpoint: Path, export: Export) -> None:
    assert_refused(export(checkpoint, "--num-classes", "6"), checkpoint, "expected a head of 6 classes (--num-classes)")


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--max-detections", "0", "a whole number of at least 1"),
        ("--score-threshold", "2", "a number from 0 to below 1"),
        ("--iou-threshold", "nan", "a number from 0 to below 1"),
        ("--allow-drop", "much", "a number from 0 to 100"),
    ],
)
def test_a_number_out_of_its_range_is_refused_with_the_range(
    option: str, value: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["weights.safetensors", "--name", "mine", "--version", "1", option, value])
    assert f"argument {option}: expected {expected}, found '{value}'" in capsys.readouterr().err


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


def test_a_pickle_that_would_run_code_is_refused_and_not_run(checkpoint: Path, export: Export) -> None:
    witness = checkpoint.parent / "ran"

    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (witness,))

    evil = checkpoint.with_suffix(".pt")
    torch.save({"weight": Evil()}, evil)
    assert_refused(export(evil), checkpoint, "would run code when loaded")
    assert not witness.exists()


def test_an_unknown_network_is_refused_with_near_misses(checkpoint: Path, export: Export) -> None:
    assert_refused(export(checkpoint, "--arch", "aa_wide_resnet10"), checkpoint, "did you mean aa_wide_resnet10_1")


def test_weights_that_do_not_fit_are_listed(checkpoint: Path, export: Export) -> None:
    weights = network().state_dict()
    weights["head.weight"] = weights.pop("conv1.weight")
    weights["fc.bias"] = torch.zeros(7)
    save_file(weights, checkpoint)
    finished = export(checkpoint)
    assert_refused(finished, checkpoint, "1 missing: conv1.weight")
    assert "1 unexpected: head.weight" in finished.stderr
    assert "1 of another shape: fc.bias (expected (5,), found (7,))" in finished.stderr


def test_labels_must_match_the_head(checkpoint: Path, export: Export) -> None:
    (checkpoint.parent / "labels.txt").write_text("one\ntwo\n")
    assert_refused(export(checkpoint), checkpoint, "expected a head of 2 classes (labels), found 5")


def test_weights_that_are_not_finite_are_refused_by_name(checkpoint: Path, export: Export) -> None:
    weights = network().state_dict()
    weights["fc.bias"][0] = float("nan")
    weights["bn.running_var"][1] = float("inf")
    save_file(weights, checkpoint)
    message = "2 unusable: bn.running_var (not finite), fc.bias (not finite)"
    assert_refused(export(checkpoint), checkpoint, message)


def test_a_prefix_is_taken_off_and_said_and_names_cannot_break_a_line(checkpoint: Path, export: Export) -> None:
    weights = {f"net.{name}": value for name, value in network().state_dict().items()}
    save_file(weights | {"net.odd\nname\x1b[2J": torch.zeros(1)}, checkpoint)
    finished = export(checkpoint)
    assert_refused(finished, checkpoint, "1 unexpected: odd?name?[2J")
    assert "names of the weights begin with 'net.', which is taken off" in finished.stderr
    weights |= {f"student.{name}": value.clone() for name, value in weights.items()}
    save_file(weights, checkpoint)
    finished = export(checkpoint, "--key-prefix", "student.net", "--num-classes", "6")
    assert_refused(finished, checkpoint, "expected a head of 6 classes")
    assert f"'student.net.', which is taken off; {len(weights) // 2} weights without it are left out" in finished.stderr


@pytest.mark.parametrize(
    "options", [{"num_heads": "many"}, {"num_classes": 3}, {"no_such": 1}, {"num_heads": 0}, {"kappa": 1e300}], ids=str
)
def test_options_in_a_checkpoint_that_make_no_network_are_refused(
    options: dict[str, object], checkpoint: Path, export: Export
) -> None:
    recorded = {"recipe": {"network": {"architecture": "aa_wide_resnet10_1", "options": options}}}
    save_file(network().state_dict(), checkpoint, metadata={"aaserve": json.dumps(recorded)})
    assert_refused(export(checkpoint), checkpoint, "")


def test_a_file_without_measurements_is_refused(checkpoint: Path, export: Export) -> None:
    (checkpoint.parent / "accuracy.json").write_text('{"model": []}')
    finished = export(checkpoint, "--accuracy", str(checkpoint.parent / "accuracy.json"))
    assert_refused(finished, checkpoint, "accuracy.json: expected a result of python -m benchmarks.accuracy")


def test_image_size_adapts_relative_tables_crop_and_resize(checkpoint: Path, export: Export) -> None:
    finished = export(checkpoint, "--image-size", "32x24")
    assert finished.status == 0, finished.stderr
    manifest = open_bundle(checkpoint.parent / "repository" / "small" / "1").manifest
    assert manifest.input.shape == (32, 24, 3)
    assert manifest.preprocessing.crop == (32, 24)
    assert manifest.preprocessing.resize == 36


def test_another_image_size_is_not_guessed_from_the_weights(checkpoint: Path, export: Export) -> None:
    other = PREPROCESSING.replace("18", "32").replace("[16, 16]", "[32, 32]")
    (checkpoint.parent / "preprocessing.toml").write_text(other)
    assert_refused(export(checkpoint), checkpoint, "layer3.0.conv1.key_rel_h (expected (15, 20), found (7, 20))")


def test_an_existing_version_is_not_overwritten_without_force(checkpoint: Path, export: Export) -> None:
    assert export(checkpoint).status == 0
    model = checkpoint.parent / "repository" / "small" / "1" / "model.onnx"
    before = model.read_bytes()
    finished = export(checkpoint)
    assert finished.status == 1
    assert "no such version yet" in finished.stderr
    assert model.read_bytes() == before


def test_a_file_that_is_not_a_checkpoint_is_refused(checkpoint: Path, export: Export) -> None:
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[:-100])
    assert_refused(export(checkpoint), checkpoint, "not a readable safetensors file")
    checkpoint.write_bytes(b"garbage" * 100)
    assert_refused(export(checkpoint), checkpoint, "found text: 'garbage")
    checkpoint.unlink()
    assert_refused(export(checkpoint), checkpoint, "no such file")


def test_a_folder_without_pictures_is_refused(checkpoint: Path, export: Export) -> None:
    assert_refused(export(checkpoint, "--parity-images", str(checkpoint.parent)), checkpoint, "found none")


def test_an_option_that_the_checkpoint_does_not_record_is_required(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(ROOT)
    status = main([str(checkpoint), "--name", "x", "--version", "1", "--repository", str(checkpoint.parent / "repo")])
    assert_refused(
        Finished(status, *capfd.readouterr()),
        checkpoint,
        f"--arch, --labels and --preprocessing are needed: {checkpoint} does not record them",
    )
