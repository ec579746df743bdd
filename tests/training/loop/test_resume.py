"""A run that was stopped and resumed is the run that was not."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from aaserve.training import command
from aaserve.training.loop.checkpoint import load_state
from tests.helpers import ROOT, wait_until
from tests.training.tiny import SHIPPED_RECIPE, StopAfter, assert_same_weights, epochs, recipe, run, write_cifar_100

EVERYTHING: dict[str, Any] = {
    "architecture": "aa_wide_resnet10_1",
    "options": {"stochastic_depth": 0.5, "dropout": 0.3},
    "augmentation": {"mixup_alpha": 0.4, "cutmix_alpha": 1.0},
    "ema_decay": 0.9,
    "precision": "bf16",
    "epochs": 2,
}
WITHOUT_TIMES = ("epoch", "loss", "top_1", "top_5")


@pytest.mark.parametrize(
    ("chosen", "steps"),
    [
        pytest.param(EVERYTHING, 1, id="sgd, first step"),
        pytest.param(EVERYTHING | {"optimiser": "adamw", "accumulation": 2, "schedule": "one-cycle"}, 5, id="adamw"),
    ],
)
def test_a_run_stopped_within_an_epoch_and_resumed_equals_one_that_was_not(
    data: Path, tmp_path: Path, chosen: dict[str, Any], steps: int
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(recipe(**chosen), data, whole)
    # Not asked at the end of an epoch, which is finished first.
    assert run(recipe(**chosen), data, parts, stop=StopAfter(2 if steps > 3 else 1)) == 143
    assert not (parts / "model.safetensors").exists()
    if steps > 3:
        assert run(recipe(**chosen), data, parts, stop=StopAfter(2), resume=True) == 143
    assert load_state(parts / "last.pt")["step"] == steps
    torch.manual_seed(99)  # what other code drew meanwhile does not matter
    torch.rand(3)
    run(recipe(**chosen), data, parts, resume=True)
    assert_same_weights(whole, parts)
    ours, theirs = (
        [{name: row[name] for name in WITHOUT_TIMES} for row in epochs(folder)] for folder in (whole, parts)
    )
    assert ours == theirs
    ours, theirs = (load_state(folder / "last.pt") for folder in (whole, parts))
    assert str(ours["optimiser"]) == str(theirs["optimiser"])


def test_a_checkpoint_by_time_within_an_epoch_loses_nothing(data: Path, tmp_path: Path) -> None:
    """A process killed without a word goes on from the last checkpoint; the log is that of an undisturbed run."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(recipe(epochs=2), data, whole)

    class Killed(Exception):
        pass

    class KilledAtStepFive(StopAfter):
        @property
        def status(self) -> int:
            if load_state(parts / "last.pt")["step"] == 4:
                raise Killed
            return 0

    run(recipe(epochs=2), data, parts, stop=StopAfter(1))
    with pytest.raises(Killed):
        run(recipe(epochs=2), data, parts, stop=KilledAtStepFive(0), resume=True, save_every=0)
    run(recipe(epochs=2), data, parts, resume=True)
    assert_same_weights(whole, parts)
    assert [row["epoch"] for row in epochs(parts)] == ["1", "2"]


def test_sigterm_writes_a_checkpoint_and_ends_cleanly(tmp_path: Path, python: Path) -> None:
    folder = write_cifar_100(tmp_path / "data", training=800, test=16)  # 50 steps an epoch
    output = tmp_path / "run"
    chosen = tmp_path / "recipe.toml"
    text = SHIPPED_RECIPE.read_text().replace("aa_wide_resnet22_2", "wide_resnet10_1")
    chosen.write_text(text.replace("batch_size = 128", "batch_size = 16"))
    command_line = [python, "-m", "training", chosen, "--data", folder, "--output", output]
    process = subprocess.Popen(
        [*command_line, "--save-minutes", "1e-6"], cwd=ROOT, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        wait_until((output / "last.pt").exists, seconds=120)
        process.send_signal(signal.SIGTERM)
        stderr = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert process.returncode == 143
    assert "stopped; --resume continues" in stderr.splitlines()[-1]
    assert load_state(output / "last.pt")["step"] % 50 > 0
    assert not list(output.glob("*.partial"))


def test_time_that_is_up_ends_a_run_with_a_status_of_its_own(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    chosen = tmp_path / "recipe.toml"
    text = SHIPPED_RECIPE.read_text().replace("aa_wide_resnet22_2", "wide_resnet10_1")
    chosen.write_text(text.replace("batch_size = 128", "batch_size = 16").replace("epochs = 30", "epochs = 1"))
    arguments = [str(chosen), "--data", str(data), "--output", str(tmp_path / "run")]
    assert command.main([*arguments, "--max-minutes", "1e-6"]) == 75
    assert load_state(tmp_path / "run" / "last.pt")["step"] == 1
    assert command.main([*arguments, "--resume"]) == 0
    assert "test top-1" in capfd.readouterr().out


def test_a_run_is_neither_overwritten_nor_resumed_with_another_recipe_or_other_data(data: Path, tmp_path: Path) -> None:
    chosen = recipe(epochs=1)
    run(chosen, data, tmp_path)
    with pytest.raises(FileExistsError, match="--resume"):
        run(chosen, data, tmp_path)
    with pytest.raises(ValueError, match="another recipe"):
        run(recipe(epochs=2), data, tmp_path, resume=True)
    with pytest.raises(ValueError, match="another data"):
        run(chosen, write_cifar_100(tmp_path / "other", training=47), tmp_path, resume=True)
    with pytest.raises(FileNotFoundError):
        run(chosen, data, tmp_path / "elsewhere", resume=True)
    (tmp_path / "last.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="not a checkpoint"):
        run(chosen, data, tmp_path, resume=True)


def test_a_run_that_is_finished_gives_its_weights_again(data: Path, tmp_path: Path) -> None:
    score = run(recipe(epochs=1), data, tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").unlink()
    assert run(recipe(epochs=1), data, tmp_path, resume=True) == score
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(data: Path, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="max_learning_rate"):
        run(recipe(max_learning_rate=1e30), data, tmp_path)
    assert not (tmp_path / "last.pt").exists()


def test_a_file_that_is_no_training_state_cannot_be_resumed(tmp_path: Path) -> None:
    weights = {"conv1.weight": torch.zeros(3)}
    for save in (
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
        lambda path: path.write_bytes(b"\x80\x02Q."),
        lambda path: torch.save(weights, path),
        lambda path: torch.save([1], path),
        lambda path: torch.save(torch.nn.Linear(1, 1), path),
    ):
        save(tmp_path / "last.pt")
        with pytest.raises(ValueError, match=r"last\.pt: not a checkpoint of python -m training"):
            load_state(tmp_path / "last.pt")
