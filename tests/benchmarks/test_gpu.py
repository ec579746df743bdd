"""benchmarks.gpu on the CPU: each step runs for real, with a small network. docs/gpu.md says what has run on a GPU."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import __main__ as gpu
from tests.helpers import ROOT


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, python: Path, random_bundles: None) -> dict[str, dict[str, Any]]:
    """What a whole dry run writes."""
    path = tmp_path_factory.mktemp("gpu") / "gpu.json"
    command = [python, "-m", "benchmarks.gpu", "--device", "cpu", "--output", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(path.read_text())
    assert "a CPU" in result["note"]
    return result["cases"]


def test_parity_compares_precisions(cases: dict[str, dict[str, Any]]) -> None:
    assert cases["parity, tiny, fp32"]["largest_difference"] < 1e-5
    assert 1e-6 < cases["parity, tiny, fp16"]["relative_error"] < 1e-2


def test_throughput_has_every_batch_size(cases: dict[str, dict[str, Any]]) -> None:
    assert cases["throughput, tiny, fp16, 2 threads"]["images_per_second"]["1"] > 0
    assert cases["pytorch, tiny, fp16, eager"]["images_per_second"]["2"] > 0


def test_serving_has_throughput_stages_and_processor_time(cases: dict[str, dict[str, Any]]) -> None:
    served = cases["serving, 1 workers, 1 lanes"]["2 clients"]
    assert served["per_second"] > 0
    assert set(served["codes"]) == {"200"}
    assert served["stages_ms"]["decode"] > 0
    assert served["service_cores"] > 0


def test_memory_is_read_before_and_after_unloading(cases: dict[str, dict[str, Any]]) -> None:
    assert all(cases["memory"][state]["resident_bytes"] > 0 for state in ("loaded", "unloaded", "loaded again"))


def test_a_case_that_fails_is_kept_with_its_reason_and_the_next_one_runs(tmp_path: Path) -> None:
    def fail() -> dict[str, Any]:
        raise RuntimeError("no such\nkernel")

    results = gpu.Results(tmp_path / "gpu.json", {})
    results.case("a", fail)
    results.case("b", lambda: {"ms": 1})
    assert results.failed == ["a"]
    assert json.loads((tmp_path / "gpu.json").read_text())["cases"] == {
        "a": {"error": "RuntimeError: no such kernel"},
        "b": {"ms": 1},
    }


def test_without_a_gpu_every_case_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan = gpu.Plan("cuda", ("tiny",), served=(), clients=(), max_batch_size=2, batches=(1,), seconds=0.1)
    monkeypatch.setitem(gpu.PLANS, "cuda", plan)
    monkeypatch.setattr("sys.argv", ["gpu", "parity", "--device", "cuda", "--output", str(tmp_path / "gpu.json")])
    if gpu.main() == 0:
        pytest.skip("there is a GPU here")
    cases = json.loads((tmp_path / "gpu.json").read_text())["cases"]
    assert "expected CUDAExecutionProvider" in cases["parity, tiny, fp32"]["error"]
