"""python -m export, as a user types it: checkpoints and options that are refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from aaserve.export.command import main
from tests.export.exporting import PREPROCESSING, Export, Finished, assert_refused, network
from tests.helpers import ROOT


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
