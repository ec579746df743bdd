"""python -m benchmarks.sizing --output FILE [--ray-serve FILE] [--document docs/scaling.md] [--seconds 20] …

How many cores for how many images a second. What the work of a request is, is measured in processor time; what follows
for its latency is simulated (benchmarks/one_core.py); the service itself, on a core of its own and under random
arrivals, says whether that is right. docs/scaling.md is written from the result.
"""

import argparse
import json
import math
import os
import re
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from aaserve.bundle.bundle import open_bundle
from aaserve.bundle.model_input import read_input
from aaserve.service.engine.session import OnnxSession
from aaserve.service.settings import Settings
from benchmarks.circumstances import ROOT, write_result
from benchmarks.generator import Generator
from benchmarks.one_core import Work, simulate
from benchmarks.overload import processor_seconds, request_of, service
from benchmarks.samples import Samples, percentiles
from benchmarks.tables import rewrite, table

SHARES = (0.3, 0.5, 0.7, 0.8, 0.9)  # of the simulated capacity
LOADS = (100, 1_000, 10_000, 100_000)  # images per second
REQUESTS = 20_000  # of a simulation
MAX_BATCH_SIZE = 8
ROUNDS, UNDISTURBED = 5, 0.05  # cores that other processes may take while we measure
ZONES = 3  # one of which may be lost


def seconds_each(work: Callable[[], object], times: int = 200) -> float:
    """Processor time, the median: whoever else is on this core does not count."""
    found = []
    for _ in range(times):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return statistics.median(found)


def measured_stages(picture: bytes) -> tuple[float, list[float]]:
    """Seconds of decoding, and of batches of 1, 2, ... rows with one thread."""
    served = open_bundle(ROOT / "model_repository" / "aa-cifar100" / "1")
    settings = Settings(intra_op_num_threads=1, provider="cpu", max_batch_size=MAX_BATCH_SIZE)
    session = OnnxSession(served, settings)
    row = read_input(picture, served.manifest, max_pixels=settings.max_image_pixels)
    decode = seconds_each(lambda: read_input(picture, served.manifest, max_pixels=settings.max_image_pixels))
    batches = [np.stack([row] * rows) for rows in range(1, MAX_BATCH_SIZE + 1)]
    return decode, [seconds_each(lambda batch=batch: session.run(batch)) for batch in batches]


def busy_seconds() -> float:
    """Of all processors, everybody's work together."""
    user, nice, system, *_ = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


class Replica:
    """The service on core 0, asked from core 1."""

    def __init__(self, host: str, port: int, process: int, request: bytes) -> None:
        self._address = host, port
        self._process = process
        self._request = request

    def asked(self, per_second: float, seconds: float, seed: int) -> dict[str, Any]:
        """`asked_once`, again if other processes took part of the cores; of all rounds, the least disturbed."""
        rounds = []
        for _ in range(ROUNDS):
            rounds.append(self.asked_once(per_second, seconds, seed))
            if rounds[-1]["cores_of_others"] < UNDISTURBED:
                break
        return min(rounds, key=lambda found: found["cores_of_others"])

    def asked_once(self, per_second: float, seconds: float, seed: int) -> dict[str, Any]:
        """Latencies, rows in a batch and seconds of processor time for each request, under random arrivals."""
        before, busy, started = self._counted(), processor_seconds(self._process), time.monotonic()
        machine = busy_seconds()
        samples = self._open_loop(per_second, seconds, seed)
        elapsed, machine = time.monotonic() - started, busy_seconds() - machine
        used = processor_seconds(self._process) - busy
        after = self._counted()
        batches, rows = (later - earlier for later, earlier in zip(after, before, strict=True))
        answered = samples.of(200)
        return {
            "per_second": round(len(samples) / seconds, 1),
            "not_answered": len(samples) - len(answered),
            "ms": percentiles(answered),
            "mean_ms": round(float(answered.mean()) * 1000, 2),
            "rows_in_a_batch": round(rows / batches, 2),
            "cores": round(used / elapsed, 3),
            "cores_of_others": round(max(0.0, machine - used - samples.processor_seconds) / elapsed, 3),
            "core_ms_each": round(used / len(samples) * 1000, 3),
        }

    def _open_loop(self, per_second: float, seconds: float, seed: int) -> Samples:
        with Generator([self._address], [self._request]) as generator:
            generator.prepare(64)
            samples = generator.open_loop(per_second=per_second, seconds=seconds, seed=seed)
        time.sleep(0.2)
        return samples

    def _counted(self) -> tuple[float, float]:
        """Batches and rows so far."""
        with urllib.request.urlopen("http://{}:{}/metrics".format(*self._address)) as answer:
            text = answer.read().decode()
        batches, rows = (
            sum(map(float, re.findall(rf"^aaserve_batch_size_{which}{{.*}} (\S+)$", text, re.MULTILINE)))
            for which in ("count", "sum")
        )
        return batches, rows


def simulated(work: Work, per_second: float, seed: int = 0) -> dict[str, Any]:
    """What `Replica.asked` measures; and the mean as a formula has it, M/D/1 without batches."""
    latencies = simulate(work, per_second=per_second, requests=REQUESTS, seed=seed)
    utilisation = per_second * work.each(1)
    wait = work.each(1) * utilisation / (2 * (1 - utilisation)) if utilisation < 1 else math.inf
    return {
        "ms": percentiles(latencies),
        "mean_ms": round(statistics.mean(latencies) * 1000, 2),
        "formula_mean_ms": round((work.each(1) + wait) * 1000, 2) if utilisation < 1 else None,
    }


def highest_load(work: Work, objective: float) -> float:
    """Requests per second at which the simulated 99th percentile is still within `objective` seconds."""
    low, high = 0.0, work.capacity
    while high - low > 1:
        middle = (low + high) / 2
        found = simulated(work, middle)["ms"]["p99"]
        low, high = (middle, high) if found <= objective * 1000 else (low, middle)
    return low


def plan(per_core: float, image_bytes: int, overhead: float | None) -> list[dict[str, Any]]:
    """For each load: cores, with a zone to spare, by Ray Serve; and the network."""
    rows = []
    for load in LOADS:
        spared = ZONES * math.ceil(load / per_core / (ZONES - 1))
        rows.append(
            {
                "images_per_second": load,
                "cores": math.ceil(load / per_core),
                "cores_with_a_zone_to_spare": spared,
                "cores_with_ray_serve": math.ceil(spared / overhead) if overhead else None,
                "gigabits_per_second_in": round(load * image_bytes * 8 / 1e9, 2),
            }
        )
    return rows


def ray_overhead(path: Path | None) -> float | None:
    """Throughput of two replicas behind HAProxy over that of two workers without Ray, on the same cores."""
    if path is None:
        return None
    found = json.loads(path.read_text())["throughput"]
    return float(
        found["haproxy"]["2 replicas"]["answers_per_second"] / found["without Ray"]["two workers"]["answers_per_second"]
    )


def tables(result: dict[str, Any], source: str) -> str:
    """What docs/scaling.md shows of a result."""
    work = result["work_ms"]
    check = [
        (
            one["measured"]["per_second"],
            f"{one['share']:.1f}",
            one["measured"]["rows_in_a_batch"],
            f"{one['measured']['mean_ms']:.1f} / {one['simulated']['mean_ms']:.1f} / "
            f"{one['simulated']['formula_mean_ms'] or math.inf:.1f}",
            f"{one['measured']['ms']['p50']:.1f} / {one['simulated']['ms']['p50']:.1f}",
            f"{one['measured']['ms']['p99']:.1f} / {one['simulated']['ms']['p99']:.1f}",
            f"{one['measured']['cores_of_others']:.2f}",
        )
        for one in result["check"]
    ]
    share = result["ray_serve_throughput_share"]
    plan = [
        (
            f"{row['images_per_second']:,}",
            f"{row['cores']:,}",
            f"{row['cores_with_a_zone_to_spare']:,}",
            f"{row['cores_with_ray_serve']:,}" if share else "–",
            f"{row['gigabits_per_second_in']:g}",
        )
        for row in result["plan"]
    ]
    return "\n\n".join(
        (
            f"From `{source}` ({result['machine']}).",
            f"A request of {result['image_bytes']:,} bytes costs one core {work['http']:.2f} ms in the event loop, "
            f"{work['decode']:.2f} ms of decoding, and the model {work['batch of 1']:.2f} ms alone or "
            f"{work[f'batch of {MAX_BATCH_SIZE}'] / MAX_BATCH_SIZE:.2f} ms in a batch of {MAX_BATCH_SIZE}: "
            f"{result['capacity_without_batches_per_second']:.0f} a second without batches, "
            f"{result['capacity_per_second']:.0f} if every batch were full.",
            table(
                (
                    "arrivals per second",
                    "load",
                    "rows in a batch",
                    "mean ms: measured / simulated / formula",
                    "p50 ms: measured / simulated",
                    "p99 ms: measured / simulated",
                    "cores taken by others",
                ),
                check,
            ),
            f"The measured p99 was at most {result['worst_p99_measured_over_simulated']:.2f} times the simulated one. "
            f"With that factor kept in hand, {result['objective_ms']:.0f} ms for 99 of 100 allow "
            f"**{result['planned_per_second_and_core']:.0f} images a second and core**, a utilisation of "
            f"{result['planned_utilisation']:.2f} with {result['planned_requests_inside']:.1f} requests inside. "
            f"A million images take {result['core_hours_for_a_million_images']:.2f} core hours at that load.",
            table(
                (
                    "images per second",
                    "cores",
                    f"cores, one of {ZONES} zones to spare",
                    f"the same by Ray Serve ({share:.2f} of the throughput)" if share else "the same by Ray Serve",
                    "Gbit/s in",
                ),
                plan,
            ),
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizing", description=__doc__.splitlines()[2])
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--seconds", type=float, default=20, help="of each load")
    parser.add_argument("--objective-ms", type=float, default=100, help="what 99 of 100 answers must keep to")
    parser.add_argument("--ray-serve", type=Path, help="result of benchmarks.ray_serve, for the column with Ray")
    parser.add_argument("--document", type=Path, help="write the tables into this document too")
    arguments = parser.parse_args()
    picture = (ROOT / "examples" / "astronaut.jpg").read_bytes()
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [min(everywhere)])
    decode, batches = measured_stages(picture)
    os.sched_setaffinity(0, [max(everywhere)])
    with service(["--intra-op-num-threads", "1"], [min(everywhere)]) as (host, port, process):
        replica = Replica(host, port, process, request_of(picture, timeout_ms=10_000))
        rough = replica.asked(50, 5, seed=99)["core_ms_each"]
        # Near full load, where it matters: a request costs less there, for less of waking up.
        calibration = replica.asked(800 / rough, arguments.seconds, seed=98)
        rows = calibration["rows_in_a_batch"]
        of_a_row = float(np.interp(rows, range(1, MAX_BATCH_SIZE + 1), batches)) / rows
        work = Work(max(0.0, calibration["core_ms_each"] / 1000 - decode - of_a_row), decode, batches)
        print(work, f"capacity {work.capacity:.0f}/s, without batches {1 / work.each(1):.0f}/s", flush=True)
        check = []
        for share in SHARES:
            found = replica.asked(share / work.each(1), arguments.seconds, seed=int(100 * share))
            check.append({"share": share, "measured": found, "simulated": simulated(work, found["per_second"])})
            print(check[-1], flush=True)
    objective = arguments.objective_ms / 1000
    worst = max(one["measured"]["ms"]["p99"] / one["simulated"]["ms"]["p99"] for one in check)
    per_core = highest_load(work, objective / max(1.0, worst))
    if not per_core:
        raise SystemExit(
            f"error: p99 was {worst:.0f} times what was simulated; this machine does other work, try again"
        )
    overhead = ray_overhead(arguments.ray_serve)
    seconds = (("http", work.http), ("decode", work.decode), *((f"batch of {n + 1}", s) for n, s in enumerate(batches)))
    measured = {
        "image_bytes": len(picture),
        "work_ms": {name: round(second * 1000, 3) for name, second in seconds},
        "calibration": calibration,
        "capacity_without_batches_per_second": round(1 / work.each(1), 1),
        "capacity_per_second": round(work.capacity, 1),
        "check": check,
        "worst_p99_measured_over_simulated": round(worst, 2),
        "objective_ms": arguments.objective_ms,
        "planned_per_second_and_core": round(per_core, 1),
        "planned_utilisation": round(per_core * work.each(1), 2),
        "planned_requests_inside": round(per_core * simulated(work, per_core)["mean_ms"] / 1000, 2),
        "ray_serve_throughput_share": round(overhead, 2) if overhead else None,
        "plan": plan(per_core, len(picture), overhead),
        "core_hours_for_a_million_images": round(1e6 / per_core / 3600, 3),
    }
    write_result(arguments.output, measured, "onnxruntime", "pillow", "fastapi", "uvicorn")
    result = json.loads(arguments.output.read_text())
    source = arguments.output.resolve()
    text = tables(result, str(source.relative_to(ROOT) if source.is_relative_to(ROOT) else source))
    print(text)
    if arguments.document:
        rewrite(arguments.document, "sizing", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
