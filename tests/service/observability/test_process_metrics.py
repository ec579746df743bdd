"""The metrics of several workers are added up, those of ended workers included."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import Metric

from aaserve.service.observability import process_metrics
from aaserve.service.observability.process_metrics import WorkersCollector

BUSY = "import time\nwhile time.process_time() < 0.4: pass\nprint(flush=True)\ninput()"
pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs Linux's /proc")


def figures(supervisor: int) -> dict[str, float]:
    return {metric.name: metric.samples[0].value for metric in WorkersCollector(supervisor).collect()}


@pytest.mark.parametrize("seconds", [(0.01, 0.01, 0.08), (0.08, 0.01, 0.01)])
def test_the_same_seconds_in_another_order_are_the_same_sum(
    seconds: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = list(seconds)

    def of_one(process: str) -> list[Metric]:
        metric = Metric("process_cpu_seconds", "", "counter")
        metric.add_sample("process_cpu_seconds_total", {}, left.pop(0))
        return [metric]

    monkeypatch.setattr(process_metrics, "_metrics_of", of_one)
    monkeypatch.setattr(WorkersCollector, "_workers", lambda _: ["1", "2"])
    monkeypatch.setattr(WorkersCollector, "_cpu_seconds_of_ended_workers", lambda _: 0.7)
    assert figures(os.getpid())["process_cpu_seconds"] == 0.8


def test_cpu_seconds_of_a_process_that_ended_stay_counted() -> None:
    before = figures(os.getpid())
    worker = subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    worker.stdout.readline()  # it has been busy
    during = figures(os.getpid())
    worker.communicate(b"\n")
    after = figures(os.getpid())
    assert before["process_cpu_seconds"] + 0.3 <= during["process_cpu_seconds"] <= after["process_cpu_seconds"]
    assert before["process_start_time_seconds"] == after["process_start_time_seconds"]
    assert during["process_resident_memory_bytes"] > before["process_resident_memory_bytes"]


def test_processes_that_are_gone_have_no_figures() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert figures(process.pid) == {}
