"""Bundles are whole or absent, and opening one checks everything it claims."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from aaserve.bundle.bundle import open_bundle, replace_manifest, scan_repository, sha256_of, write_bundle
from aaserve.bundle.errors import BundleError
from aaserve.bundle.manifest import Manifest
from aaserve.bundle.references.references import read_references
from tests.detector_bundle import OUTPUTS, write_detector
from tests.helpers import REPOSITORY

with TemporaryDirectory() as folder:
    WRITTEN_DETECTION = (write_detector(Path(folder)) / "manifest.json").read_text()
FILES = {"model.onnx": b"\x08\x0a", "references.json": b"[]"}


def manifest(**changes: object) -> Manifest:
    shipped = json.loads((REPOSITORY / "aa-cifar100" / "1" / "manifest.json").read_text())
    return Manifest.model_validate(
        shipped | {"files": {name: sha256_of(content) for name, content in FILES.items()}} | changes
    )


def test_the_shipped_bundle_opens() -> None:
    opened = open_bundle(REPOSITORY / "aa-cifar100" / "1")
    assert opened.manifest.architecture.startswith("aa_")
    assert opened.model_path.is_file()
    assert len(opened.manifest.labels) == 100


def test_what_is_written_opens_again(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, manifest(version="7"), FILES)
    assert folder == tmp_path / "aa-cifar100" / "7"
    assert open_bundle(folder).manifest == manifest(version="7")
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "model.onnx", "references.json"]


def test_an_existing_version_is_not_overwritten(tmp_path: Path) -> None:
    write_bundle(tmp_path, manifest(), FILES)
    with pytest.raises(BundleError, match="no such version yet"):
        write_bundle(tmp_path, manifest(), FILES)


def test_replacing_leaves_the_new_one_whole_and_nothing_else(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, manifest(), FILES)
    write_bundle(tmp_path, manifest(architecture="other"), FILES, replace=True)
    assert open_bundle(folder).manifest.architecture == "other"
    assert list(folder.parent.iterdir()) == [folder]


def test_a_failed_replacement_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_bundle(tmp_path, manifest(), FILES)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if target == folder and not self.name.endswith("-old"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(BundleError, match="1: expected to write it, found: Input/output"):
        write_bundle(tmp_path, manifest(architecture="other"), FILES, replace=True)
    assert open_bundle(folder).manifest == manifest()
    assert list(folder.parent.iterdir()) == [folder]


def test_nothing_is_left_behind_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)  # the manifest is written last
    with pytest.raises(BundleError, match="1: expected to write it, found: No space"):
        write_bundle(tmp_path, manifest(), FILES)
    assert list((tmp_path / "aa-cifar100").iterdir()) == []


def test_a_manifest_of_another_model_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="expected"):
        write_bundle(tmp_path, manifest(), FILES | {"model.onnx": b"another"})
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_from_before_tasks_is_of_classification_with_its_one_output(tmp_path: Path) -> None:
    shipped = json.loads((REPOSITORY / "aa-cifar100" / "1" / "manifest.json").read_text())
    assert shipped.keys() & {"task", "output", "outputs"} == {"output"}
    opened = manifest()
    assert (opened.task, [output.name for output in opened.outputs]) == ("classification", ["logits"])
    written = json.loads((write_bundle(tmp_path, opened, FILES) / "manifest.json").read_text())
    assert (written["task"], written["outputs"]) == ("classification", [shipped["output"]])


def test_every_output_of_the_graph_is_named_in_its_order() -> None:
    names = [output.name for output in manifest().all_outputs]
    assert names == ["logits", *(f"attention.layer3.{block}.conv1" for block in range(3))]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"task": "segmentation"}, "expected the task classification or detection, found 'segmentation'"),
        (
            {"output": {"name": "logits", "dtype": "float32", "shape": [7]}},
            "expected 7 labels, one for each class, found 100",
        ),
        (
            {"output": {"name": "logits", "dtype": "int64", "shape": [100]}},
            r"expected one output, float32 \(number of classes,\)",
        ),
        ({"output": {"name": "logits", "dtype": "float32", "shape": [100, 1]}}, "expected one output, float32"),
        ({"output": []}, r"expected one output, float32 \(number of classes,\), found \[\]"),
    ],
    ids=["unknown task", "labels of another number", "numbers that are no logits", "two dimensions", "no output"],
)
def test_a_task_that_is_unknown_or_lacks_its_outputs_is_one_clear_line(
    tmp_path: Path, change: dict[str, object], problem: str
) -> None:
    path = write_bundle(tmp_path, manifest(), FILES) / "manifest.json"
    shipped = json.loads((REPOSITORY / "aa-cifar100" / "1" / "manifest.json").read_text())
    path.write_text(json.dumps(shipped | change))
    with pytest.raises(BundleError, match=problem) as caught:
        open_bundle(path.parent)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.onnx", "references.json", "manifest.json"])
def test_a_link_in_a_files_place_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_bundle(tmp_path, manifest(), FILES)
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=f"{name}: expected a plain file, found a link"):
        open_bundle(folder)


def test_a_link_in_a_bundles_place_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, manifest(), FILES)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="1: expected a plain folder, found a link"):
        open_bundle(folder)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "weights.bin"])
def test_a_manifest_names_its_two_files_and_no_others(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected the files model\.onnx and references\.json"):
        manifest(files={"model.onnx": "0" * 64, name: "0" * 64})


def test_errors_are_one_line_that_names_the_file(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, manifest(), FILES)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(BundleError) as caught:
        open_bundle(folder)
    assert str(folder / "manifest.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_repository_lists_versions_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for version in ("10", "9", "2"):
        write_bundle(tmp_path, manifest(version=version), FILES)
    (tmp_path / "aa-cifar100" / ".1-partial").mkdir()
    (tmp_path / "aa-cifar100" / "notes").mkdir()
    assert scan_repository(tmp_path) == {"aa-cifar100": ["2", "9", "10"]}


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden", "a b"])
def test_names_that_are_no_folder_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        manifest(name=name)


@pytest.mark.parametrize("version", ["0", "01", "1.0", "latest", "-1"])
def test_versions_are_whole_numbers(version: str) -> None:
    with pytest.raises(ValueError, match="version"):
        manifest(version=version)


LOWERED = {
    "judged": 10,
    "top_1_agreement": 1.0,
    "top_1_fp32": None,
    "top_1": None,
    "allowed_drop": 1.0,
    "calibrated": None,
    "quantised": None,
}


def test_a_manifest_below_fp32_says_what_it_cost() -> None:
    assert manifest(precision="fp16", lowered=LOWERED).lowered.judged == 10
    assert manifest(precision="int8", lowered=LOWERED | {"calibrated": 5, "quantised": {"Conv": 3}}).precision == "int8"
    for precision, lowered in (
        ("fp16", None),
        ("fp32", LOWERED),
        ("int8", LOWERED),
        ("fp16", LOWERED | {"calibrated": 5}),
    ):
        with pytest.raises(ValueError, match="found it otherwise"):
            manifest(precision=precision, lowered=lowered)


def detection(**changes: object) -> Manifest:
    """A valid manifest of detection, but for the changes."""
    return Manifest.model_validate(json.loads(WRITTEN_DETECTION) | changes)


BOXES, SCORES, CLASSES, COUNT = OUTPUTS
PARITY = {"images": 1, "batch_sizes": [1], "max_difference": 0, "tolerance": 1e-4, "top_1_agreement": 1}


def test_a_bundle_of_detection_opens_again_as_it_was_written(tmp_path: Path) -> None:
    folder = write_detector(tmp_path)
    opened = open_bundle(folder).manifest
    assert (opened.task, opened.output_names) == ("detection", ("boxes", "scores", "classes", "count"))
    assert (opened.preprocessing.fit, opened.preprocessing.resize) == ("letterbox", None)
    assert opened.accuracy.ap_50 == 0.9
    replace_manifest(folder, opened)
    assert open_bundle(folder).manifest == opened
    [reference] = read_references(folder / "references.json")
    assert reference.detections.arrays.boxes.shape == (3, 4)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"outputs": [SCORES, BOXES, CLASSES, COUNT]}, r"expected the outputs boxes float32 \(D, 4\), .* found scores"),
        ({"outputs": [BOXES, SCORES, CLASSES]}, "expected the outputs boxes"),
        ({"outputs": [BOXES, SCORES | {"shape": [4]}, CLASSES, COUNT]}, r"found .* scores float32 \(4,\)"),
        ({"outputs": [BOXES, SCORES, CLASSES | {"dtype": "float32"}, COUNT]}, "classes float32"),
        ({"outputs": [COUNT]}, r"found count int64 \(\)"),
        ({"outputs": []}, "found none"),
        ({"labels": []}, "expected a label for each class, found none"),
        ({"suppression": None}, "expected suppression in a bundle of detection"),
        ({"parity": PARITY}, "expected parity of the task detection, found that of another one"),
        ({"accuracy": {"dataset": "x", "images": 1, "ap": 2, "ap_50": 1, "ap_75": 1, "measured": "x"}}, "ap"),
        (
            {"accuracy": {"dataset": "x", "images": 1, "top_1": 1, "top_5": 1, "measured": "x"}},
            "expected accuracy of the task detection, found that of another one",
        ),
    ],
    ids=str,
)
def test_a_manifest_of_detection_that_does_not_hold_together_is_refused(
    changes: dict[str, object], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        detection(**changes)


def test_sections_of_detection_are_refused_in_classification() -> None:
    with pytest.raises(ValueError, match="expected suppression in a bundle of detection and only there"):
        manifest(suppression={"score_threshold": 0.1, "iou_threshold": 0.5})
    with pytest.raises(ValueError, match="expected parity of the task classification"):
        manifest(parity=json.loads(WRITTEN_DETECTION)["parity"])


def test_the_loss_of_a_precision_is_told_in_average_precision() -> None:
    lowered = {"judged": 10, "agreement": 0.99, "ap_fp32": 0.5, "ap": 0.49, "allowed_drop": 1}
    lowered |= {"calibrated": None, "quantised": None}
    assert detection(precision="fp16", lowered=lowered).lowered.ap == 0.49
    with pytest.raises(ValueError, match="expected lowered of the task detection"):
        detection(precision="fp16", lowered=LOWERED)
