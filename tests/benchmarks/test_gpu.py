"""benchmarks/gpu on the CPU: every step runs for real, small; what is new on the day is the card alone.

Nothing here says that CUDA works: docs/gpu.md tells what has run on a card, and what is unproven.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import onnx
import pytest

from benchmarks.gpu.__main__ import STEPS
from benchmarks.gpu.results import Results
from tests.helpers import ROOT


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder of a whole run, as a user would start it."""
    work = tmp_path_factory.mktemp("gpu")
    return work, command("--device", "cpu", "--work", str(work), "--max-minutes", "60")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments], cwd=ROOT, capture_output=True, text=True
    )


def cases(work: Path, step: str) -> dict[str, dict[str, Any]]:
    return json.loads((work / "results" / f"{step}.json").read_text())["cases"]


def test_every_step_runs_without_a_card(dry_run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    work, done = dry_run
    assert done.returncode == 0, done.stdout + done.stderr
    for step in STEPS:
        found = cases(work, step)
        assert found
        assert not [name for name, row in found.items() if "error" in row]
        assert "a CPU" in json.loads((work / "results" / f"{step}.json").read_text())["note"]


def test_the_steps_measure_what_they_are_for(dry_run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    work, _ = dry_run
    parity = cases(work, "parity")
    assert parity["shipped onnxruntime, cpu, fp32"]["nodes"]["CPUExecutionProvider"]["Softmax"] == 3
    assert 1e-6 < parity["shipped onnxruntime, cpu, fp16"]["relative_error"] < 1e-2
    throughput = cases(work, "throughput")
    assert throughput["shipped, fp16, nhwc"]["by_batch"]["2"]["images_per_second"] > 0
    assert throughput["shipped, fp16, as the service calls it, 2 threads"]["images_per_second"]["2"] > 0
    served = cases(work, "serving")["1 workers, 1 lanes"]["2 clients"]
    assert served["per_second"] > 0
    assert set(served["codes"]) == {"200"}
    assert served["stages_ms"]["decode"] > 0
    assert served["service_cores"] > 0
    assert cases(work, "memory")["no memory for a call"]["statuses"] == [200, 500, 200]


def test_existing_measurements_are_not_repeated(dry_run: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    work, _ = dry_run
    before = (work / "results" / "parity.json").read_text()
    done = command("parity", "--device", "cpu", "--work", str(work))
    assert (done.returncode, done.stdout) == (0, "")
    assert (work / "results" / "parity.json").read_text() == before


def test_a_run_whose_time_is_up_says_what_is_left(tmp_path: Path) -> None:
    done = command("parity", "--device", "cpu", "--work", str(tmp_path), "--max-minutes", "0")
    assert done.returncode == 75
    assert "the time is up; left: 3 cases, parity: shipped torch, cpu, fp32 next" in done.stderr
    assert not list(tmp_path.glob("results/*.json"))


def test_without_a_card_nothing_is_measured_as_if_there_were_one(tmp_path: Path) -> None:
    done = command("--device", "cuda", "--work", str(tmp_path), "--max-minutes", "0")
    if done.returncode == 75:
        pytest.skip("there is a GPU here")
    assert done.returncode == 1
    assert "error: PyTorch finds no CUDA device; --device cpu is the dry run" in done.stderr


def test_a_case_that_fails_is_kept_with_its_reason_and_tried_again_only_if_asked(tmp_path: Path) -> None:
    path, calls = tmp_path / "step.json", []

    def fail() -> dict[str, Any]:
        calls.append(1)
        raise RuntimeError("no such\nkernel")

    def results(*, retry: bool) -> Results:
        return Results(path, time.monotonic() + 60, {}, retry=retry)

    first = results(retry=False)
    first.case("a", fail)
    first.case("b", lambda: {"ms": 1})
    assert first.failed == ["a"]
    assert json.loads(path.read_text())["cases"]["a"]["error"] == "RuntimeError: no such kernel"
    results(retry=False).case("a", fail)
    assert len(calls) == 1
    again = results(retry=True)
    again.case("a", lambda: {"ms": 2})
    again.case("b", fail)
    assert (again.failed, len(calls)) == ([], 1)


def test_the_made_up_graphs_are_valid() -> None:
    from benchmarks.gpu.memory import _graph

    onnx.checker.check_model(_graph(), full_check=True)
