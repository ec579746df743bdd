"""The metrics of several workers are added up, those of ended workers included."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aaserve.service.observability.process_metrics import WorkersCollector

BUSY = "import time\nwhile time.process_time() < 0.4: pass\nprint(flush=True)\ninput()"
pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs Linux's /proc")


def figures(supervisor: int) -> dict[str, float]:
    return {metric.name: metric.samples[0].value for metric in WorkersCollector(supervisor).collect()}


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
