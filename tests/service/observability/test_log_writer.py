"""The thread that writes the log: a broken file does not stop the threads that log."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aaserve.service.observability.log_writer import LINE, LogWriter
from tests.faults.running import running
from tests.helpers import ROOT, running_service, wait_until
from tests.toy_bundles import OUT_OF_RANGE, picture, write_fragile_bundle

FILL = "x" * 999


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def everything(reading: int, last: str) -> list[str]:
    """Lines, until one ends with `last`."""
    text = ""
    while not text.endswith(f"{last}\n"):
        text += os.read(reading, 2**20).decode()
    return text.splitlines()


def test_a_full_pipe_blocks_no_caller_and_accepted_lines_come_out_in_order(pipe: tuple[int, int]) -> None:
    dropped: list[None] = []
    reading, writing = pipe
    writer = LogWriter(writing, capacity=100 * (1003 + LINE))
    writer.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    writer.on_dropped = lambda: dropped.append(None)
    for number in range(1000):  # a pipe holds 64 of these, the queue 100
        writer.line(f"{number} {FILL}")
    assert len(dropped) >= 1000 - 64 - 100 - 2
    lines = everything(reading, f"{len(dropped)} log lines were dropped before this one")
    # Where the writing goes on is up to the threads; the report comes after the first line that got through again.
    numbers = [int(line.split()[0]) for line in lines if not line.startswith("WARNING")]
    assert numbers == sorted(numbers)
    assert len(numbers) + len(dropped) >= 1000 - 100
    writer.close()


def test_waiting_lines_are_bounded_in_bytes_and_dropped_ones_are_counted(pipe: tuple[int, int]) -> None:
    dropped: list[None] = []
    reading, writing = pipe
    writer = LogWriter(writing, capacity=2**20)
    writer.setFormatter(logging.Formatter("%(message)s"))
    writer.on_dropped = lambda: dropped.append(None)
    line = "x" * 100_000  # more than the pipe takes
    for _ in range(100):
        writer.line(line)
    assert len(dropped) >= 100 - 2**20 // len(line) - 1  # one of them is being written
    assert line in everything(reading, f"{len(dropped)} log lines were dropped before this one")
    writer.close()


def test_waiting_lines_are_written_at_the_end_of_the_process() -> None:
    script = (
        "import logging; from aaserve.service.observability.logs import configure_logging;"
        "configure_logging('json', 'info');"
        "[logging.getLogger('aaserve').info('line %d', n) for n in range(2000)]"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [f'"line {number}"' in line for number, line in enumerate(done.stderr.splitlines())] == [True] * 2000


def test_after_a_torn_line_the_next_one_begins_anew(tmp_path: Path) -> None:
    """In a child, because the limit is one of the process."""
    script = """
import os, resource, sys
from tests.faults.running import running
from aaserve.service.observability.log_writer import LogWriter
writer = LogWriter(1)
dropped = []
writer.on_dropped = lambda: dropped.append(None)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (5, hard))
writer.line("123456789")
while not dropped:
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
writer.line("whole")
writer.close()
"""
    path = tmp_path / "log"
    with path.open("w") as file:
        subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdout=file, check=True, timeout=60)
    assert path.read_text().splitlines()[:2] == ["12345", "whole"]


def test_a_service_whose_stderr_is_full_starts_serves_and_stops() -> None:
    with Path("/dev/full").open("w") as full, running(stderr=full.fileno()) as service:
        wait_until(lambda: service.metric("aaserve_log_lines_dropped_total") >= 2)  # that it listens, that it is ready
        service.process.terminate()
        assert service.process.wait(60) == 0


def test_onnx_runtime_writes_nothing_between_our_lines(tmp_path: Path) -> None:
    write_fragile_bundle(tmp_path)
    with running_service("--log-format", "json", repository=tmp_path) as service:
        assert service.classify(picture(OUT_OF_RANGE)).status_code == 500
        service.stop()
    assert all(line.startswith('{"time":') for line in service.log)
    assert any("indices element out of data bounds" in line for line in service.log)  # the error itself is there
