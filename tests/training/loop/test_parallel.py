"""Two processes, each with half of a batch, are one process that takes the halves in turn."""

import os
import subprocess
from pathlib import Path

import pytest

from aaserve.training import command
from aaserve.training.loop.checkpoint import load_state
from tests.helpers import ROOT
from tests.training.tiny import SHIPPED_RECIPE, epochs

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture
def chosen(tmp_path: Path) -> Path:
    text = SHIPPED_RECIPE.read_text()
    for old, new in (
        ("aa_wide_resnet22_2", "aa_wide_resnet10_1"),
        ("epochs = 30", "epochs = 4"),
        ("batch_size = 128", "batch_size = 16\naccumulation = 2"),
        ("max_learning_rate = 0.15", "max_learning_rate = 0.01\nema_decay = 0.5"),
        ("bf16", "fp32"),
        ("crop_padding", "cutmix_alpha = 1.0\ncrop_padding"),
    ):
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


def test_two_processes_train_what_one_does(data: Path, tmp_path: Path, chosen: Path, python: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert command.main([str(chosen), "--data", str(data), "--output", str(alone)]) == 0

    # Each process takes half a batch, so it need not divide its own.
    shared = chosen.with_name("shared.toml")
    shared.write_text(chosen.read_text().replace("accumulation = 2", "accumulation = 1"))
    train = f"{python} -m training {shared} --data {data} --output {together}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run_both(command_line: str) -> subprocess.CompletedProcess[str]:
        parts = [python, *TORCHRUN, "--no-python", "bash", "-c", command_line]
        return subprocess.run(parts, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)

    # The time of one process being up, both stop.
    stopped = run_both(f"{train} $(test $RANK = 0 || echo --max-minutes 1e-6)")
    assert stopped.returncode != 0
    assert stopped.stderr.count("stopped; --resume continues") == 1
    assert load_state(together / "last.pt")["step"] == 10  # of twelve: several processes are asked every tenth step
    resumed = run_both(f"{train} --resume")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("test top-1") == 1
    ours, theirs = (load_state(folder / "last.pt") for folder in (together, alone))
    for name, weight in theirs["network"].items():
        if "running" not in name and "num_batches" not in name:  # statistics are the first process's own
            difference = (ours["network"][name] - weight).abs().max()
            assert difference < 1e-4, f"{name}: {difference}"
    assert [float(row["loss"]) for row in epochs(together)] == pytest.approx(
        [float(row["loss"]) for row in epochs(alone)], abs=2e-3
    )
    assert ours["average"] is not None
