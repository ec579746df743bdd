"""python -m benchmarks.limits [--workloads W1 W2 W3 W4] [--seconds S] [--output FILE]

What no server of these workloads can exceed on this machine: images a second of ONNX Runtime alone, of OpenVINO alone
where it is installed, of decoding alone, and of the least that does both behind HTTP (benchmarks/bare_service.py), a
process a core. "Share of raw" elsewhere is a server's throughput over that of its runtime, called in the best way.
"""

import argparse
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import aaserve.bundle.telemetry  # noqa: F401  (before onnxruntime)
from aaserve.bundle.bundle import open_bundle
from aaserve.bundle.detections import detections_of
from aaserve.bundle.model_input import read_input
from aaserve.service.tasks.detection import SCORE_THRESHOLD
from benchmarks import openvino_alone
from benchmarks.bare_service import BareService
from benchmarks.harness.circumstances import write_result
from benchmarks.harness.generator import Generator, post_request
from benchmarks.harness.workloads import WORKLOADS, Workload

import onnxruntime  # isort: skip

MAX_PIXELS = 50_000_000
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Way:
    """How ONNX Runtime is called: `callers` threads at once, on one session or on one each, with `batch` rows."""

    batch: int
    sessions: int
    callers: int
    threads: int  # intra_op_num_threads of each session

    @property
    def words(self) -> str:
        plural = "s" if self.threads > 1 else ""
        if self.callers == 1:
            who = "one caller"
        else:
            who = f"{self.callers} callers" + (" share it" if self.sessions == 1 else ", one each")
        sessions = "a session" if self.sessions == 1 else f"{self.sessions} sessions"
        return f"{sessions} of {self.threads} thread{plural}, {who}"


def ways(cores: int, batches: Sequence[int] = (1, 8, 32)) -> list[Way]:
    """Those that fill the cores, and the one that uses one."""
    shapes = [(1, 1, 1), (1, 1, cores), (cores, cores, 1), (1, cores, 1)]  # sessions, callers, threads
    return [Way(batch, *shape) for batch, shape in itertools.product(batches, dict.fromkeys(shapes))]


class Raw:
    """The workload's model without a server: sessions are opened once, `images_per_second` may be asked again."""

    def __init__(self, workload: Workload) -> None:
        self._bundle = open_bundle(workload.bundle())
        manifest = self._bundle.manifest
        self._rows = np.stack([read_input(one, manifest, max_pixels=MAX_PIXELS) for one in workload.pictures()])
        self._input, self._outputs = manifest.input.name, [output.name for output in manifest.outputs]
        self._sessions: dict[tuple[int, int], onnxruntime.InferenceSession] = {}

    def top_1(self) -> list[int | None]:
        """What a server has to answer: best classes of the workload's pictures, None where nothing is found."""
        session = self._session(0, 1)
        answers = [session.run(self._outputs, {self._input: row[np.newaxis]}) for row in self._rows]
        return [
            self._best({name: rows[0] for name, rows in zip(self._outputs, answer, strict=True)}) for answer in answers
        ]

    def images_per_second(self, way: Way, seconds: float) -> float:
        sessions = [self._session(number, way.threads) for number in range(way.sessions)]
        batch = np.resize(self._rows, (way.batch, *self._rows.shape[1:]))

        def call(caller: int) -> None:
            sessions[caller % len(sessions)].run(self._outputs, {self._input: batch})

        return _per_second(call, callers=way.callers, seconds=seconds) * way.batch

    def _best(self, row: dict[str, NDArray[Any]]) -> int | None:
        if self._bundle.manifest.task == "classification":
            return int(row[self._outputs[0]].argmax())
        found = detections_of(row)
        return int(found.classes[0]) if len(found.scores) and found.scores[0] >= SCORE_THRESHOLD else None

    def _session(self, number: int, threads: int) -> onnxruntime.InferenceSession:
        if (number, threads) not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            self._sessions[number, threads] = onnxruntime.InferenceSession(
                self._bundle.model_path, options, providers=["CPUExecutionProvider"]
            )
        return self._sessions[number, threads]


def best_way(raw: Raw, seconds: float, cores: int = CORES) -> tuple[Way, dict[Way, float]]:
    """The fastest, and images per second of all."""
    found = {way: raw.images_per_second(way, seconds) for way in ways(cores)}
    return max(found, key=lambda way: found[way]), found


def decoded_per_second(workload: Workload, threads: int, seconds: float) -> float:
    """Pictures to rows of the model's input, with the code that the service runs."""
    manifest = open_bundle(workload.bundle()).manifest
    pictures = [itertools.cycle(workload.pictures()) for _ in range(threads)]
    return _per_second(
        lambda caller: read_input(next(pictures[caller]), manifest, max_pixels=MAX_PIXELS),
        callers=threads,
        seconds=seconds,
    )


def _per_second(call: Callable[[int], object], *, callers: int, seconds: float) -> float:
    """Calls that `callers` threads end within `seconds`, after one each that does not count."""
    counts = [0] * callers
    end = [0.0]
    ready = threading.Barrier(callers, action=lambda: end.__setitem__(0, time.monotonic() + seconds))

    def work(caller: int) -> None:
        call(caller)
        ready.wait()
        while time.monotonic() < end[0]:
            call(caller)
            counts[caller] += 1

    threads = [threading.Thread(target=work, args=[caller]) for caller in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.monotonic() - end[0] + seconds)  # the last calls end after the time is up


def bare_per_second(workload: Workload, clients: int, seconds: float) -> float:
    """All that has to be done, and nothing else, asked as the service is."""
    requests = [post_request("/classify", one, {"Content-Type": workload.media_type}) for one in workload.pictures()]
    with (
        BareService().serve(workload.bundle()) as served,
        Generator([(served.host, port) for port in served.ports], requests) as generator,
    ):
        generator.closed_loop(clients=clients, seconds=0.5)
        return generator.closed_loop(clients=clients, seconds=seconds).answered_per_second


def measure(workload: Workload, seconds: float, console: Console) -> dict[str, object]:
    best, found = best_way(Raw(workload), seconds)
    decoded = {str(threads): round(decoded_per_second(workload, threads, seconds), 1) for threads in (1, CORES)}
    openvino = {
        precision: openvino_alone.images_per_second(workload.bundle(), precision, seconds)
        for precision in openvino_alone.precisions()
    }
    bare_clients = (8, 32) if workload.task == "classification" else ()  # it knows no other task
    bare = {str(clients): round(bare_per_second(workload, clients, seconds), 1) for clients in bare_clients}
    batches = sorted({way.batch for way in found})
    table = Table(title=f"{workload.name}: {workload.words}; images per second")
    for heading in ("", *(f"batch {batch}" for batch in batches)):
        table.add_column(heading, justify="right" if heading else "left")
    for words in dict.fromkeys(way.words for way in found):
        table.add_row(words, *(f"{rate:,.0f}" for way, rate in found.items() if way.words == words))
    console.print(table)
    console.print(f"OpenVINO, by batch: {openvino}; decoding, by threads: {decoded}; bare service: {bare}\n")
    return {
        "words": workload.words,
        "raw": round(found[best], 1),
        "raw_way": f"batch {best.batch}, {best.words}",
        "onnxruntime_images_per_second": [
            {
                "batch": way.batch,
                "sessions": way.sessions,
                "callers": way.callers,
                "threads": way.threads,
                "per_second": round(rate, 1),
            }
            for way, rate in found.items()
        ],
        "openvino_images_per_second_by_batch": openvino,
        "decoded_per_second_by_threads": decoded,
        "bare_service_answers_per_second_by_clients": bare,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=__doc__.splitlines()[2])
    parser.add_argument(
        "--workloads", nargs="+", choices=WORKLOADS, default=["W1", "W2", "W3"], help="default: W1 W2 W3"
    )
    parser.add_argument("--seconds", type=float, default=2, help="of each figure (default: 2)")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    found = {name: measure(WORKLOADS[name], arguments.seconds, Console()) for name in arguments.workloads}
    if arguments.output:
        write_result(arguments.output, {"workloads": found}, "onnxruntime", "openvino", "pillow", "uvicorn", "numpy")
    return 0


if __name__ == "__main__":
    sys.exit(main())
