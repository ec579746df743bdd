"""python -m training with a recipe of detection: what is learned, left behind, resumed and said."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from aaserve.export.sources.checkpoint import read_checkpoint
from aaserve.models import create_model
from aaserve.models.state_dict import without_counters
from aaserve.training import command, scoring
from aaserve.training.loop.checkpoint import load_state
from aaserve.training.loop.run import Run
from aaserve.training.loop.step import batches, train_step
from aaserve.training.machine import Machine
from aaserve.training.recipe import DetectorRecipe, read_recipe
from aaserve.training.task import Task, task_of
from tests.helpers import ROOT
from tests.training.detection.squares import LEARNING, SHIPPED_RECIPE, SMALL, detector, write_pictures
from tests.training.tiny import CPU, StopAfter, assert_same_weights, epochs, run


def started(chosen: DetectorRecipe, folder: Path, machine: Machine = CPU) -> Run:
    return Run(chosen, task_of(chosen).open_data(folder, machine.device), machine)


def test_a_detector_learns(trained_detector: Path) -> None:
    score = json.loads((trained_detector / "score.json").read_text())
    assert score["ap_50"] > 0.5  # a network that has learned nothing has about 0
    rows = epochs(trained_detector / "run")
    assert [row["epoch"] for row in rows if row["ap_50"]] == ["10", "20"]
    assert float(rows[-1]["loss"]) < 0.5 * float(rows[0]["loss"])
    with Image.open(trained_detector / "run" / "curves.png") as curves:
        assert curves.size == (1320, 540)
    metadata = read_checkpoint(trained_detector / "run" / "model.safetensors").metadata
    assert metadata["labels"] == ["green", "red"]
    assert metadata["test"] == {"images": 8, **score}
    assert metadata["recipe"]["task"] == "detection"
    assert DetectorRecipe.model_validate(metadata["recipe"]) == LEARNING


def test_a_stopped_and_resumed_run_equals_one_that_was_not(squares: Path, tmp_path: Path) -> None:
    chosen = detector("retinanet_aa_small", ema_decay=0.9, accumulation=2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(chosen, squares, whole)
    assert run(chosen, squares, parts, stop=StopAfter(1)) == 143
    run(chosen, squares, parts, resume=True)
    assert_same_weights(whole, parts)
    without_times = ("epoch", "loss", "ap", "ap_50", "ap_75")
    ours, theirs = ([[row[name] for name in without_times] for row in epochs(folder)] for folder in (whole, parts))
    assert ours == theirs


def test_a_run_does_not_go_on_with_other_boxes(squares: Path, tmp_path: Path) -> None:
    chosen = detector(epochs=1)
    run(chosen, squares, tmp_path / "run")
    write_pictures(tmp_path, "train", 12)
    write_pictures(tmp_path, "val", 6, seed=1)
    run(chosen, tmp_path, tmp_path / "run", resume=True)  # the same ones elsewhere
    listed = (tmp_path / "instances_train.json").read_text()
    for name, value in (("bbox", [1, 1, 20, 20]), ("iscrowd", 1)):
        content = json.loads(listed)
        content["annotations"][0][name] = value
        (tmp_path / "instances_train.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match="started with another data"):
            run(chosen, tmp_path, tmp_path / "run", resume=True)


def test_parts_of_a_batch_move_the_weights_as_the_whole(squares: Path) -> None:
    """Without normalisation over the batch, which sees the parts; their boxes are of different number."""
    runs = [started(detector(accumulation=accumulation), squares) for accumulation in (1, 4)]
    for one in runs:
        one.network.eval()
        train_step(one, *next(batches(one)))
    torch.testing.assert_close(runs[0].loss, runs[1].loss, rtol=1e-5, atol=0)
    for whole, parts in zip(*(one.network.parameters() for one in runs), strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-3, atol=1e-4)


def test_two_processes_train_and_score_what_one_does(squares: Path, tmp_path: Path, python: Path) -> None:
    recipes = [tmp_path / "alone.toml", tmp_path / "together.toml"]
    text = SHIPPED_RECIPE.read_text()
    for old, new in (
        ('"retinanet_aa_small"', '"retinanet_small"\noptions = { width = 8, channels = 16, head_convolutions = 1 }'),
        ("epochs = 80", "epochs = 1"),
        ("batch_size = 8", "batch_size = 4\naccumulation = 2"),
        ("max_learning_rate = 1e-3", "max_learning_rate = 1e-4"),
        ("crop = [240, 320]", "crop = [64, 64]"),
    ):
        assert old in text
        text = text.replace(old, new)
    recipes[0].write_text(text)
    recipes[1].write_text(text.replace("accumulation = 2", "accumulation = 1"))
    folders = [tmp_path / "alone", tmp_path / "together"]
    assert command.main([str(recipes[0]), "--data", str(squares), "--output", str(folders[0])]) == 0
    arguments = ["training", str(recipes[1]), "--data", str(squares), "--output", str(folders[1])]
    subprocess.run(
        [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHON_EXEC": str(python)},
        check=True,
        capture_output=True,
        timeout=240,
    )
    alone, together = (epochs(folder)[0] for folder in folders)
    assert float(alone["loss"]) == pytest.approx(float(together["loss"]), rel=1e-3)
    ours, theirs = (load_state(folder / "last.pt")["network"] for folder in folders)
    for name in ("backbone.conv1.weight", "pyramid.output.0.weight", "class_head.0.weight", "box_head.0.weight"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("weights", "options", "network", "said"),
    [
        pytest.param("resnet18", {}, "retinanet_small", "tensors taken; the pyramid and the heads are new", id="plain"),
        pytest.param("aa_resnet18", {"num_heads": 4}, "retinanet_aa_small", "tensors taken; the pyr", id="augmented"),
        pytest.param(
            "resnet18", {}, "retinanet_aa_small", "attention is new beside the filters kept in layer2", id="plain to AA"
        ),
    ],
)
def test_a_backbone_begins_with_the_weights_of_a_classification_network(
    squares: Path, tmp_path: Path, weights: str, options: dict, network: str, said: str
) -> None:
    classifier = create_model(weights, num_classes=5, image_size=96, width=8, **options)
    for name, table in classifier.named_parameters():
        if "key_rel" in name:
            torch.nn.init.normal_(table)
    save_file(classifier.state_dict(), tmp_path / "classifier.safetensors")
    one = started(detector(network, initial_weights=str(tmp_path / "classifier.safetensors")), squares)
    assert said in str(one.taken)
    for name in ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer4.1.conv2.weight"):
        assert torch.equal(one.network.state_dict()[f"backbone.{name}"], classifier.state_dict()[name])


def test_a_detector_begins_with_the_weights_of_a_detector(squares: Path, tmp_path: Path) -> None:
    run(detector(epochs=1), squares, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    one = started(detector(initial_weights=str(tmp_path / "model.safetensors")), squares)
    taken = without_counters(one.network.state_dict())
    assert all(torch.equal(value, weights[name]) for name, value in taken.items())
    assert str(one.taken).endswith(" tensors taken")


def test_weights_of_another_backbone_are_refused(squares: Path, tmp_path: Path) -> None:
    save_file(create_model("resnet18", num_classes=5, width=16).state_dict(), tmp_path / "wide.safetensors")
    with pytest.raises(ValueError, match=r"wide\.safetensors: the weights do not fit the network: .* of another shape"):
        started(detector(initial_weights=str(tmp_path / "wide.safetensors")), squares)


def test_the_commands_train_and_score(squares: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    text = SHIPPED_RECIPE.read_text()
    for old, new in (
        (
            "[optimisation]",
            f"options = {{ {', '.join(f'{name} = {value}' for name, value in SMALL.items())} }}\n[optimisation]",
        ),
        ("epochs = 80", "epochs = 1"),
        ("batch_size = 8", "batch_size = 4"),
        ("crop = [240, 320]", "crop = [64, 64]"),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "mine.toml").write_text(text)
    output = tmp_path / "run"
    assert command.main([str(tmp_path / "mine.toml"), "--data", str(squares), "--output", str(output)]) == 0
    printed = capfd.readouterr()
    assert printed.out.startswith("test AP ")
    assert "instances_train.json: 12 pictures, " in printed.err
    file = tmp_path / "score.json"
    for weights in ("model.safetensors", "last.pt"):  # of the averaged network, both of them
        assert scoring.main([str(output / weights), "--data", str(squares), "--json", str(file)]) == 0
        printed = capfd.readouterr().out.splitlines()
        assert printed[0].startswith("instances_val.json: 6 pictures, ")
        assert printed[1].split() == ["class", "AP", "AP50", "AP75"]
        assert [line.split()[0] for line in printed[2:]] == ["all", "green", "red"]
        score = json.loads(file.read_text())
        metadata = read_checkpoint(output / "model.safetensors").metadata
        assert {name: score[name] for name in ("images", "ap", "ap_50", "ap_75")} == metadata["test"]
        assert list(score["classes"]) == ["green", "red"]
    assert scoring.main([str(output / "last.pt"), "--data", str(squares), "--split", "test"]) == 1
    assert "expected instances_test.json; found" in capfd.readouterr().err


def test_a_recipe_of_detection_is_told_from_one_of_classification(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    for old, new, message in (
        ('task = "detection"', 'task = "segmentation"', "task: expected classification or detection, found 'segmentat"),
        ('task = "detection"\n', "", "boxes: no such field; there are task, network"),
        ("seed = 0", "seed = 0\nlabel_smoothing = 0.1", "optimisation.label_smoothing: no such field"),
        ("vertical_flip", "vertical_flop", "augmentation.vertical_flop: no such field; did you mean vertical_flip?"),
        ("scale = [0.7, 1.4]\n", "", "missing: augmentation.scale"),
        ("scale = [0.7, 1.4]", "scale = [1.4, 0.7]", "augmentation: scale must rise from above 0, got (1.4, 0.7)"),
        ("[boxes]", "[boxes]\nnegative_overlap = 0.6", "boxes: negative_overlap 0.6 is above 0.5, the positive"),
    ):
        text = SHIPPED_RECIPE.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match="mine") as caught:
            read_recipe(path)
        assert message in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


def test_every_task_says_what_the_protocol_asks_for() -> None:
    names = {name for name in vars(Task) if not name.startswith("_")}
    assert names <= set(dir(task_of(detector())))
