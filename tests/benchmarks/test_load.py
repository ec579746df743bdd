"""python -m benchmarks.load against the real service, and what is written of a load."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness.pictures import photograph, photographs, small_pngs
from benchmarks.harness.samples import NO_ANSWER, Samples, percentiles
from benchmarks.limits import Way, ways
from tests.helpers import EXAMPLES, ROOT, RunningService


def load(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.load", *arguments, "--image", str(EXAMPLES / "cat.jpg")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("how", [("--clients", "2"), ("--rate", "40")], ids=["closed", "open"])
def test_a_load_on_the_service(service: RunningService, how: tuple[str, str], tmp_path: Path) -> None:
    answered = service.metric("aaserve_requests_total", endpoint="/classify", code="200")
    url = f"{str(service.client.base_url).rstrip('/')}/classify?top_k=1"
    done = load(url, *how, "--seconds", "0.5", "--warm-up", "0", "--output", str(tmp_path / "load.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "answers per second" in done.stdout
    found = json.loads((tmp_path / "load.json").read_text())
    assert found["codes"] == {
        "200": service.metric("aaserve_requests_total", endpoint="/classify", code="200") - answered
    }
    assert 0 < found["ms"]["p50"] <= found["ms"]["p99"] <= found["ms"]["max"]
    assert found["command"].startswith("python -m benchmarks.load 'http://")
    assert {"machine", "commit", "date"} <= found.keys()


def test_errors_end_with_another_status(service: RunningService) -> None:
    done = load(f"{str(service.client.base_url).rstrip('/')}/nowhere", "--seconds", "0.1", "--warm-up", "0")
    assert done.returncode == 1
    assert "'404'" in done.stdout


def test_an_address_without_a_server_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = load(f"http://127.0.0.1:{port}/classify")
    assert (done.returncode, done.stderr) == (1, f"error: 127.0.0.1:{port}: Connection refused\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("https://example.org/",), "expected http://"),
        (("http://127.0.0.1/", "--clients", "0"), "greater than 0"),
        (("http://127.0.0.1/", "--rate", "-1"), "greater than 0"),
        (("http://127.0.0.1/", "--header", "nothing"), "NAME:VALUE"),
        (("http://127.0.0.1/", "--rate", "1", "--clients", "1"), "not allowed with"),
    ],
)
def test_an_impossible_load_is_refused(arguments: tuple[str, ...], said: str) -> None:
    done = load(*arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_percentiles_are_of_answers_and_throughput_is_of_the_window() -> None:
    samples = Samples(
        appointed=np.array([0.0, 0.1, 0.2, 0.9]),
        seconds=np.array([0.010, 0.020, 5.0, 0.2]),
        late=np.zeros(4),
        status=np.array([200, 429, NO_ANSWER, 200]),
        began=0.0,
        window=1.0,
        processor_seconds=0.1,
    )
    assert samples.codes == {"no answer": 1, "200": 1 + 1, "429": 1}
    assert samples.answered_per_second == 1.0
    assert percentiles(samples.of(200), (50, 100)) == {"p50": 105.0, "max": 200.0}
    assert percentiles(samples.of(503)) is None


def test_raw_is_measured_in_every_way_that_fills_the_cores() -> None:
    found = ways(2, batches=(1, 8))
    assert len(found) == len(set(found)) == 8
    assert {way.batch for way in found} == {1, 8}
    assert {way.words for way in found} == {
        "a session of 1 thread, one caller",
        "a session of 2 threads, one caller",
        "2 sessions of 1 thread, 2 callers, one each",
        "a session of 1 thread, 2 callers share it",
    }
    assert ways(1, batches=(1,)) == [Way(1, 1, 1, 1)]


def test_pictures_are_the_same_each_time_and_of_the_size_they_are_said_to_have() -> None:
    assert small_pngs() == small_pngs()
    assert len(set(small_pngs())) == 8
    sizes = [len(picture) for picture in photographs()]
    assert len(sizes) == 8
    assert all(90_000 <= size <= 100_000 for size in sizes), sizes
    assert len(photograph(0.1)) < len(photograph(1))
