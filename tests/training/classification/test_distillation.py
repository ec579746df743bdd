"""Learning from a teacher, with a plain Wide-ResNet of random weights as the teacher of an augmented one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from aaserve.training import scoring
from aaserve.training.classification.distillation import divergence, relative_error
from tests.training.classification.distilling import CLASSES, distilling
from tests.training.tiny import StopAfter, assert_same_weights, epochs, run


def test_only_what_the_recipe_names_learns_and_the_scores_are_kept(
    teacher: Path, photographs: Path, tmp_path: Path
) -> None:
    score = run(distilling(teacher, photographs), photographs, tmp_path)
    before, after = (
        {name: tensor for name, tensor in load_file(path).items() if not name.endswith("num_batches_tracked")}
        for path in (teacher, tmp_path / "model.safetensors")
    )
    changed = {name for name, tensor in after.items() if name not in before or not torch.equal(tensor, before[name])}
    assert changed
    assert {name for name in changed if not name.startswith("layer3.")} == set()
    assert not {name for name in changed if "running" in name}
    assert float(epochs(tmp_path)[-1]["agreement"]) == score.agreement
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        metadata = json.loads(file.metadata()["aaserve"])
    assert metadata["labels"] == [f"class {number}" for number in range(CLASSES)]
    assert metadata["test"]["images"] == 12
    assert metadata["test"]["agreement"] == score.agreement


def test_outputs_computed_once_train_what_pictures_train(teacher: Path, photographs: Path, tmp_path: Path) -> None:
    each, shared, kept = (tmp_path / name for name in ("each", "shared", "kept"))
    chosen = distilling(teacher, photographs)
    chosen = chosen.model_copy(
        update={"augmentation": chosen.augmentation.model_copy(update={"horizontal_flip": False})}
    )
    run(chosen, photographs, each)
    for in_memory, folder in ((False, shared), (True, kept)):
        changes = {"computed_once": "layer2", "in_memory": in_memory}
        settings = chosen.distillation.model_copy(update=changes)
        run(chosen.model_copy(update={"distillation": settings}), photographs, folder)
        assert_same_weights(each, folder, rtol=1e-3, atol=1e-5)


def test_a_distillation_that_was_stopped_and_resumed_equals_one_that_was_not(
    teacher: Path, photographs: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    chosen = distilling(teacher, photographs, {"computed_once": "layer2", "in_memory": True})
    run(chosen, photographs, whole)
    # While outputs are computed, then within an epoch.
    assert run(chosen, photographs, parts, stop=StopAfter(1)) == 143
    assert run(chosen, photographs, parts, stop=StopAfter(4), resume=True) == 143
    run(chosen, photographs, parts, resume=True)
    assert_same_weights(whole, parts)


def test_the_losses_are_zero_for_equal_answers_and_scale_free() -> None:
    logits = torch.tensor([[1.0, 2.0, 4.0]])
    assert divergence(logits, logits + 3).item() == pytest.approx(0, abs=1e-6)
    assert divergence(torch.zeros(1, 2), torch.tensor([[100.0, 0.0]])).item() == pytest.approx(np.log(2))
    assert relative_error(torch.zeros(2, 3), torch.ones(2, 3)).item() == 1
    assert relative_error(20 * logits, 10 * logits).item() == relative_error(2 * logits, logits).item() == 1


def test_evaluate_scores_each_source_beside_the_teacher(
    teacher: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score = run(distilling(teacher, photographs), photographs, tmp_path)
    capsys.readouterr()
    file = tmp_path / "scores.json"
    assert scoring.main([str(tmp_path / "model.safetensors"), "--data", str(photographs), "--json", str(file)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:3] for line in lines[1:]] == [
        [source, network, str(pictures)]
        for source, pictures in (("all", 12), ("one", 6), ("other", 6))
        for network in ("student", "teacher")
    ]
    scores = json.loads(file.read_text())
    assert scores["all"]["student"]["agreement"] == score.agreement
    assert scoring.main([str(tmp_path / "last.pt"), "--data", str(photographs), "--json", str(file)]) == 0
    assert json.loads(file.read_text()) == scores
    assert scoring.main([str(photographs / "classes.txt"), "--data", str(photographs)]) == 1
    assert "expected the model.safetensors or last.pt of a run" in capsys.readouterr().err
