"""Step: the service itself on the card, over HTTP, with photographs of 100 kB.

`of_session` is its answers per second over the images per second of its own session in the best batch, called in a loop
without HTTP or decoding: 0.8 is the aim. Stages are means over the requests; processor time is of all its processes.
Service and load generator share the cores.
"""

import os
import shutil
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from aaserve.bundle.model_input import read_input
from aaserve.service.engine.runtime.session import OnnxSession
from aaserve.service.settings import Settings
from benchmarks.generator import Generator
from benchmarks.gpu.bundles import bundle, pixels
from benchmarks.gpu.device import wall_milliseconds
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.results import Results
from benchmarks.load import post_request
from benchmarks.pictures import photographs
from benchmarks.samples import percentiles
from tests.faults.running import HOST, Service, running, wait_until

STAGES = ("receive", "decode", "queue", "inference", "respond")
_LOOK = 0.5  # seconds between two looks at the card
_WARM_UP = 0.3  # of a load


def run(plan: Plan, results: Results, work: Path) -> None:
    results.case("session alone", lambda: _session(plan, work))
    for threads in plan.decoding:
        results.case(f"decoding alone, {threads} threads", lambda threads=threads: _decoding(plan, work, threads))
    best = results.cases.get("session alone", {}).get("images_per_second")
    for workers, lanes in plan.served:
        results.case(
            f"{workers} workers, {lanes} lanes",
            lambda workers=workers, lanes=lanes: _served(plan, work, workers, lanes, best),
        )


def options(plan: Plan, work: Path) -> list[str]:
    """Of a service that has this one bundle."""
    model = bundle(plan.augmented, "fp16", work)
    repository = work / "served"
    if not repository.exists():
        shutil.copytree(model.folder.parent, repository / model.folder.parent.name)
    rows = plan.served_batch
    return [
        *("--repository", str(repository), "--provider", plan.device),
        *("--max-batch-size", str(rows), "--max-queue-size", str(16 * rows)),
    ]


@cache
def _photographs() -> list[bytes]:
    return photographs()


def _session(plan: Plan, work: Path) -> dict[str, Any]:
    rows = plan.served_batch
    opened = bundle(plan.augmented, "fp16", work)
    session = OnnxSession(opened, Settings(provider=plan.device, max_batch_size=rows), fixed_shapes=True)
    found = {}
    for size in session.warm_sizes:
        batch = pixels(plan.augmented, size)
        found[size] = size / wall_milliseconds(lambda batch=batch: session.run(batch), plan.seconds) * 1000
    return {"images_per_second": max(found.values()), "by_batch": found}


def _decoding(plan: Plan, work: Path, threads: int) -> dict[str, Any]:
    manifest = bundle(plan.augmented, "fp16", work).manifest
    pictures = _photographs()
    end = time.monotonic() + plan.load_seconds / 2

    def decode(_: int) -> int:
        number = 0
        while time.monotonic() < end:
            read_input(pictures[number % len(pictures)], manifest, max_pixels=50_000_000)
            number += 1
        return number

    started = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        number = sum(pool.map(decode, range(threads)))
    return {"images_per_second": number / (time.monotonic() - started)}


def _served(plan: Plan, work: Path, workers: int, lanes: int, best: float | None) -> dict[str, Any]:
    """By number of clients."""
    with running(*options(plan, work), "--workers", str(workers), "--gpu-lanes", str(lanes)) as service:
        wait_until(lambda: service.lines("is loaded and warmed up") == workers)
        return {f"{clients} clients": _measured(service, plan, clients, best) for clients in plan.clients}


def _measured(service: Service, plan: Plan, clients: int, best: float | None) -> dict[str, Any]:
    headers = {"Content-Type": "image/jpeg"}
    requests = [post_request("/classify?top_k=1", picture, headers) for picture in _photographs()]
    looks: list[float] = []
    with Generator([(HOST, service.port)], requests) as generator:
        generator.closed_loop(clients=clients, seconds=_WARM_UP * plan.load_seconds)
        before, busy = _stages(service), _processor_seconds(service)
        over = threading.Event()
        watching = threading.Thread(target=_watch, args=[service, looks, over])
        watching.start()
        started = time.monotonic()
        samples = generator.closed_loop(clients=clients, seconds=plan.load_seconds)
        elapsed = time.monotonic() - started
        spent = _processor_seconds(service) - busy
        over.set()
        watching.join()
        after = _stages(service)

    def mean(what: str) -> float:
        return (after[what][0] - before[what][0]) / max(1, after[what][1] - before[what][1])

    return {
        "per_second": samples.answered_per_second,
        "of_session": samples.answered_per_second / best if best else None,
        "ms": percentiles(samples.of(200)),
        "codes": samples.codes,
        "stages_ms": {stage: mean(stage) * 1000 for stage in STAGES},
        "rows_in_a_batch": mean("batch"),
        "service_cores": spent / elapsed,
        "generator_cores": samples.processor_seconds / elapsed,
        "gpu_utilisation": statistics.mean(looks) if looks else None,
    }


def _watch(service: Service, looks: list[float], over: threading.Event) -> None:
    while not over.wait(_LOOK):
        looks.extend(service.samples("aaserve_gpu_utilisation_ratio").values())


def _stages(service: Service) -> dict[str, tuple[float, float]]:
    """Sum and count by stage, and of the rows in a batch."""

    def of_stage(stage: str, samples: dict[str, float]) -> float:
        return sum(value for sample, value in samples.items() if f'stage="{stage}"' in sample)

    sums, counts = (service.samples(f"aaserve_stage_duration_seconds_{what}") for what in ("sum", "count"))
    batches = tuple(service.metric(f"aaserve_batch_size_{what}") for what in ("sum", "count"))
    return {stage: (of_stage(stage, sums), of_stage(stage, counts)) for stage in STAGES} | {"batch": batches}


def _processor_seconds(service: Service) -> float:
    total = 0.0
    for process in (service.process.pid, *service.workers()):
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total
