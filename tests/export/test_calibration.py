"""Calibration of --precision int8, the pictures that judge the loss, and what is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from aaserve.export.judgement.loss import judge
from aaserve.export.judgement.samples import CALIBRATION_PICTURES, Sample, find_samples, split_samples
from tests.export.lowering import LABELS, export

pytestmark = pytest.mark.usefixtures("speed_in_one_round")


def flat(trained: Path, folder: Path) -> Path:
    """The same pictures without labels."""
    folder.mkdir()
    for path in (trained / "pictures").glob("*/*.png"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_losing_more_top_1_than_allowed_writes_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def upside_down(model: bytes, feeds: object) -> tuple[bytes, dict[str, int]]:
        parsed = onnx.load_model_from_string(model)
        head = next(node for node in parsed.graph.node if node.op_type == "Gemm")
        weight = next(tensor for tensor in parsed.graph.initializer if tensor.name == head.input[1])
        weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), weight.name))
        return parsed.SerializeToString(), {"Conv": 1}

    monkeypatch.setattr("aaserve.export.precision.quantise", upside_down)
    for folder in (trained / "pictures", flat(trained, tmp_path / "flat")):
        assert export(trained, tmp_path / "repository", "--precision", "int8", "--calibration", str(folder)) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: precision: top-1 agrees with fp32 on ")
        assert "points are more than --allow-drop 1" in error
        assert ("accuracy" in error) == (folder.name == "pictures")
        assert not (tmp_path / "repository").exists()


def test_labelled_pictures_compare_accuracy_and_others_agreement_with_fp32() -> None:
    answers = {"fp32": [0, 0, 1, 1], "lower": [0, 1, 1, 0]}  # to four pictures

    def graph(name: str):  # type: ignore[no-untyped-def]
        return lambda pixels: np.eye(2)[answers[name]]

    batches = [np.zeros((4, 1, 1, 3), np.uint8)]
    labelled = judge(graph("fp32"), graph("lower"), batches, [0, 0, 1, 0])
    assert (labelled.top_1_fp32, labelled.top_1, labelled.top_1_agreement) == (0.75, 0.75, 0.5)
    assert labelled.lost == 0
    assert judge(graph("fp32"), graph("lower"), batches, [0, 0, 1, 1]).lost == 50
    assert judge(graph("fp32"), graph("lower"), batches, [None]).lost == 50


def test_calibration_takes_pictures_of_every_label_and_none_that_is_judged() -> None:
    samples = [Sample(Path(f"{label}/{index}.png"), label) for label in range(10) for index in range(200)]
    calibrating, judging = split_samples(samples)
    assert len(calibrating) == CALIBRATION_PICTURES
    assert not set(calibrating) & set(judging)
    assert set(calibrating) | set(judging) == set(samples)
    counts = np.bincount([sample.class_index for sample in calibrating])
    assert counts.min() >= 25
    assert [len(part) for part in split_samples(samples[:3])] == [1, 2]


BAD_CALIBRATION = {
    "none": ((), "int8 needs --calibration DIR"),
    "missing": (("--calibration", "{folder}/nowhere"), "expected a readable folder, found: No such file"),
    "one picture": (
        ("--calibration", "{folder}/one"),
        "expected two pictures or more, here or in folders named as labels, found 1",
    ),
    "another label": (("--calibration", "{folder}/wrong"), "expected a folder named as one of the 3 labels"),
    "both": (("--calibration", "{folder}/both"), "expected pictures or folders of pictures, found both"),
    "undecodable": (("--calibration", "{folder}/damaged"), "damaged/1.png: "),
}


@pytest.mark.parametrize(("options", "message"), BAD_CALIBRATION.values(), ids=BAD_CALIBRATION.keys())
def test_an_unusable_calibration_folder_is_rejected(
    trained: Path, tmp_path: Path, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture
) -> None:
    picture = (trained / "pictures" / "cat" / "2.png").read_bytes()
    for name in ("wrong/dog/1.png", "both/1.png", "both/cat/1.png", "damaged/2.png", "one/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture)
    (tmp_path / "damaged" / "1.png").write_bytes(picture[:50])
    options = tuple(option.format(folder=tmp_path) for option in options)
    assert export(trained, tmp_path / "repository", "--precision", "int8", *options) == 1
    said = capsys.readouterr().err
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "tracing" not in said  # it is known before what takes long
    assert not (tmp_path / "repository").exists()


def test_calibration_is_rejected_for_fp32(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert export(trained, tmp_path, "--calibration", str(trained / "pictures")) == 1
    assert "--calibration is for --precision fp16 and int8" in capsys.readouterr().err


def test_samples_get_their_class_from_the_folder_name(trained: Path) -> None:
    said: list[str] = []
    found = find_samples(trained / "pictures", LABELS, said.append)
    assert said == [f"30 pictures in {trained / 'pictures'}, of 3 of the 3 labels"]
    assert len(found) == 30
    assert all(LABELS[sample.class_index] == sample.path.parent.name for sample in found)
