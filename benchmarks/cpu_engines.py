"""python -m benchmarks.cpu_engines [--workload W3] [--seconds S] [--rounds N] [--alternative DIR] --output FILE

Engines for CPUs on one network, each in fresh processes, in turn: processor time of an image where every core has a
call of its own, as the service computes under load; time of a lone image on all cores; loading and memory. The
sessions are the service's. An alternative is a folder with the package onnxruntime-openvino, whose execution provider
is measured beside them; it cannot be installed beside onnxruntime.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import aaserve.bundle.telemetry  # noqa: F401  (before onnxruntime and openvino)
from aaserve.bundle.bundle import Bundle, open_bundle
from aaserve.service.engine.runtime.model_session import ModelSession
from aaserve.service.engine.runtime.openvino_session import OpenVinoSession
from aaserve.service.engine.runtime.session import OnnxSession
from aaserve.service.settings import Settings
from benchmarks.circumstances import ROOT, write_result
from benchmarks.workloads import WORKLOADS

import onnxruntime  # isort: skip

CORES = len(os.sched_getaffinity(0))
ENGINES = {
    "onnxruntime, fp32": Settings(provider="cpu"),
    "openvino, fp32": Settings(provider="openvino"),
    "openvino, bf16": Settings(provider="openvino", cpu_precision="bf16"),
}
ALTERNATIVE = "onnxruntime-openvino, fp32"


class ExecutionProvider(ModelSession):
    """The model in ONNX Runtime with OpenVINO's execution provider."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        super().__init__(bundle)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        streams = CORES if threads == 1 else 1
        own = {"device_type": "CPU", "num_of_threads": str(CORES), "num_streams": str(streams)}
        self._session = onnxruntime.InferenceSession(
            bundle.model_path, options, providers=[("OpenVINOExecutionProvider", own)]
        )
        if self._session.get_providers()[0] != "OpenVINOExecutionProvider":
            raise SystemExit(f"error: expected OpenVINOExecutionProvider, found {self._session.get_providers()}")
        self.provider, self.on_cpu, self.precision, self.warm_sizes = ALTERNATIVE, True, "fp32", [1]

    def run(self, batch: np.ndarray, names: object = ()) -> dict[str, np.ndarray]:
        found = self._session.run(self._names, {self._bundle.manifest.input.name: batch})
        return dict(zip(self._names, found, strict=True))


def memory_mib() -> float:
    """What this process has in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def opened(engine: str, bundle: Bundle, threads: int) -> ModelSession:
    if engine == ALTERNATIVE:
        return ExecutionProvider(bundle, threads)
    settings = ENGINES[engine]
    return (OpenVinoSession if settings.provider == "openvino" else OnnxSession)(bundle, settings, threads=threads)


def measure(engine: str, bundle: Bundle, seconds: float) -> dict[str, float]:
    """Figures of this process, which opens the bundle and calls it."""
    before, started = memory_mib(), time.monotonic()
    session = opened(engine, bundle, threads=1)
    session.warm_up()
    found = {"load_seconds": time.monotonic() - started}
    for rows in (1, 8):
        batch = np.zeros((rows, *bundle.manifest.input.shape), bundle.manifest.input.dtype)
        calls, processor, elapsed = side_by_side(session, batch, seconds)
        found[f"batch_{rows}_processor_ms"] = processor * 1000 / calls / rows
        found[f"batch_{rows}_per_second"] = calls * rows / elapsed
    found["memory_mib"] = memory_mib() - before
    wide = opened(engine, bundle, threads=CORES)
    wide.warm_up()
    found["lone_ms"] = min(wide.seconds_of_one_row() for _ in range(5)) * 1000
    return found


def side_by_side(session: ModelSession, batch: np.ndarray, seconds: float) -> tuple[int, float, float]:
    """Calls of as many threads as there are cores, processor time, time."""
    counts = [0] * CORES

    def work(number: int) -> None:
        session.run(batch)
        ready.wait()
        while time.monotonic() < started[0] + seconds:
            session.run(batch)
            counts[number] += 1

    started, processor = [0.0], [0.0]

    def begin() -> None:
        started[0], processor[0] = time.monotonic(), time.process_time()

    ready = threading.Barrier(CORES, action=begin)
    threads = [threading.Thread(target=work, args=[number]) for number in range(CORES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts), time.process_time() - processor[0], time.monotonic() - started[0]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_engines", description=__doc__.splitlines()[2])
    parser.add_argument("--workload", choices=WORKLOADS, default="W3", help="whose network (default: W3)")
    parser.add_argument("--bundle", type=Path, help="NAME/VERSION folder instead")
    parser.add_argument("--seconds", type=float, default=3, help="of each figure (default: 3)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the medians count (default: 3)")
    parser.add_argument("--alternative", type=Path, help="folder with the package onnxruntime-openvino")
    parser.add_argument("--output", type=Path, default=Path("runs/cpu-engines.json"), help="JSON file to write")
    parser.add_argument("--one", choices=[*ENGINES, ALTERNATIVE], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = (arguments.bundle or WORKLOADS[arguments.workload].bundle()).resolve()
    bundle = open_bundle(folder)
    if arguments.one:
        print(json.dumps(measure(arguments.one, bundle, arguments.seconds)))
        return 0
    engines = [*ENGINES, *([ALTERNATIVE] if arguments.alternative else [])]
    rounds: dict[str, list[dict[str, float]]] = {engine: [] for engine in engines}
    for _ in range(arguments.rounds):
        for engine, done in rounds.items():
            command = [sys.executable, "-m", "benchmarks.cpu_engines", "--bundle", str(folder), "--one", engine]
            environment = dict(os.environ)
            if engine == ALTERNATIVE:
                path = [str(arguments.alternative), environment.get("PYTHONPATH", "")]
                environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
            text = subprocess.check_output(
                [*command, "--seconds", str(arguments.seconds)], cwd=ROOT, env=environment, text=True
            )
            done.append(json.loads(text.splitlines()[-1]))
    medians = {
        engine: {name: round(statistics.median(one[name] for one in done), 2) for name in done[0]}
        for engine, done in rounds.items()
    }
    table = Table(title=f"{bundle.manifest.architecture}, {CORES} cores, medians of {arguments.rounds} rounds")
    for heading in ("", *next(iter(medians.values()))):
        table.add_column(heading.replace("_", " "), justify="right" if heading else "left")
    for engine, figures in medians.items():
        table.add_row(engine, *(f"{figure:,.1f}" for figure in figures.values()))
    Console(width=160).print(table)
    result = {"network": bundle.manifest.architecture, "engines": medians, "rounds": rounds}
    write_result(arguments.output, result, "onnxruntime", "openvino", "numpy")
    return 0


if __name__ == "__main__":
    sys.exit(main())
