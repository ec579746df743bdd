"""python -m export evaluate BUNDLE DIR: accuracy on labelled pictures, into the manifest."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from aaserve.bundle.bundle import open_bundle
from aaserve.export.evaluate import main
from tests.helpers import EXAMPLES, REPOSITORY
from tests.toy_bundles import OUT_OF_RANGE, label_of, picture, write_fragile_bundle

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_fragile_bundle(tmp_path / "repository")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten pictures of colours 0 to 9, three of them in the folder of the next label."""
    for red in range(10):
        folder = tmp_path / "colours" / label_of(red + (red < 3))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{red}.png").write_bytes(picture(red))
    return tmp_path / "colours"


@pytest.fixture
def run(capfd: pytest.CaptureFixture) -> Run:
    def evaluate(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        return status, *capfd.readouterr()

    return evaluate


def test_the_accuracy_is_printed_and_written_into_the_manifest(bundle: Path, pictures: Path, run: Run) -> None:
    before = open_bundle(bundle).manifest
    status, printed, said = run(bundle, pictures)
    assert status == 0, said
    assert printed == "top-1 70.00%, top-5 100.00% of 10 pictures (colours)\n"
    assert "10 pictures in" in said
    assert "evaluating" in said
    accuracy = open_bundle(bundle).manifest.accuracy
    assert (accuracy.dataset, accuracy.images, accuracy.top_1, accuracy.top_5) == ("colours", 10, 0.7, 1)
    assert open_bundle(bundle).manifest.model_copy(update={"accuracy": None}) == before
    assert sorted(path.name for path in bundle.iterdir()) == ["manifest.json", "model.onnx", "references.json"]

    status, printed, _ = run(bundle, pictures, "--dataset", "once more")
    assert printed.endswith("(once more); before: top-1 70.00%, top-5 100.00% of 10 pictures (colours)\n")


def test_a_dry_run_leaves_the_manifest_as_it_is(bundle: Path, pictures: Path, run: Run) -> None:
    before = (bundle / "manifest.json").read_bytes()
    assert run(bundle, pictures, "--dry-run")[1].startswith("top-1 70.00%")
    assert (bundle / "manifest.json").read_bytes() == before


def test_pictures_without_labels_or_of_other_labels_are_refused(bundle: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "plain").mkdir()
    for red in range(2):
        (tmp_path / "plain" / f"{red}.png").write_bytes(picture(red))
    status, printed, said = run(bundle, tmp_path / "plain")
    assert (status, printed) == (1, "")
    assert "plain: expected folders named as labels, found pictures without one" in said
    (tmp_path / "others" / "zebra").mkdir(parents=True)
    status, _, said = run(bundle, tmp_path / "others")
    assert status == 1
    assert "expected a folder named as one of the 4 labels, found 'zebra'" in said
    assert open_bundle(bundle).manifest.accuracy is None


def test_a_picture_that_does_not_decode_ends_it_with_its_name(bundle: Path, pictures: Path, run: Run) -> None:
    damaged = pictures / "a" / "9.png"
    damaged.write_bytes(picture(9)[:60])
    status, printed, said = run(bundle, pictures)
    assert (status, printed) == (1, "")
    assert f"error: {damaged}: " in said
    assert open_bundle(bundle).manifest.accuracy is None


def test_a_damaged_bundle_is_refused(bundle: Path, pictures: Path, run: Run) -> None:
    (bundle / "model.onnx").write_bytes(b"other")
    status, _, said = run(bundle, pictures)
    assert status == 1
    assert "model.onnx: expected sha256" in said


def test_a_model_that_fails_is_one_line(bundle: Path, pictures: Path, run: Run) -> None:
    (pictures / "a" / "wrong.png").write_bytes(picture(OUT_OF_RANGE))
    status, _, said = run(bundle, pictures)
    assert status == 1
    assert "error: " in said
    assert "Traceback" not in said


def test_the_shipped_bundle_is_right_about_its_pictures(tmp_path: Path, run: Run) -> None:
    shutil.copytree(REPOSITORY / "aa-cifar100", tmp_path / "aa-cifar100")
    for label in ("rocket", "apple"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        (tmp_path / "pictures" / label / "rocket.jpg").write_bytes((EXAMPLES / "rocket.jpg").read_bytes())
    _, printed, said = run(tmp_path / "aa-cifar100" / "1", tmp_path / "pictures")
    assert printed.startswith("top-1 50.00%, top-5 50.00% of 2 pictures (pictures); before: top-1 72.16%"), said
