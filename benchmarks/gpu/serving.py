"""Step: the service itself on the card, over HTTP, with photographs of 100 kB.

`of_session` is its answers per second over the images per second of its own session in the best batch, called in a loop
without HTTP or decoding: 0.8 is the aim. Stages are means over the requests; processor time is of all its processes.
Service and load generator share the cores.
"""

import io
import os
import shutil
import statistics
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.circumstances import ROOT
from benchmarks.faults.running import HOST, Service, running
from benchmarks.generator import Generator
from benchmarks.gpu.bundles import bundle, pixels
from benchmarks.gpu.device import wall_milliseconds
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.results import Results
from benchmarks.load import post_request
from bundle.model_input import read_input
from service.session import OnnxSession
from service.settings import Settings

STAGES = ("receive", "decode", "queue", "inference", "respond")
_LOOK = 0.25  # seconds between two looks at the card


def run(plan: Plan, results: Results, work: Path) -> None:
    body = photograph(plan.photograph_bytes)
    results.case("session alone", lambda: _session(plan, work))
    results.case("decoding alone, one thread", lambda: _decoding(plan, work, body))
    best = results.cases.get("session alone", {}).get("images_per_second")
    for workers in plan.workers:
        results.case(f"{workers} workers", lambda workers=workers: _served(plan, work, body, workers, best))


def options(plan: Plan, work: Path) -> list[str]:
    """Of a service that has this one bundle."""
    model = bundle(plan.augmented, "fp16", work)
    repository = work / "served"
    if not repository.exists():
        shutil.copytree(model.folder.parent, repository / model.folder.parent.name)
    batch = str(plan.served_batch)
    return ["--repository", str(repository), "--provider", plan.device, "--max-batch-size", batch]


@cache
def photograph(size: int) -> bytes:
    """A JPEG of about so many bytes, from one of the examples."""
    picture = Image.open(ROOT / "examples" / "cat.jpg").convert("RGB").resize((1024, 768))
    found = b""
    for quality in range(20, 96):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        if len(found := file.getvalue()) >= size:
            break
    return found


def _session(plan: Plan, work: Path) -> dict[str, Any]:
    rows = plan.served_batch
    session = OnnxSession(bundle(plan.augmented, "fp16", work), Settings(provider=plan.device, max_batch_size=rows))
    found = {}
    for size in session.warm_sizes:
        batch = pixels(plan.augmented, size)
        found[size] = size / wall_milliseconds(lambda batch=batch: session.run(batch), plan.seconds) * 1000
    return {"images_per_second": max(found.values()), "by_batch": found}


def _decoding(plan: Plan, work: Path, body: bytes) -> dict[str, Any]:
    manifest = bundle(plan.augmented, "fp16", work).manifest
    taken = wall_milliseconds(lambda: read_input(body, manifest, max_pixels=50_000_000), plan.seconds)
    return {"bytes": len(body), "ms": taken, "images_per_second": 1000 / taken}


def _served(plan: Plan, work: Path, body: bytes, workers: int, best: float | None) -> dict[str, Any]:
    """By number of clients."""
    with running(*options(plan, work), "--workers", str(workers)) as service:
        return {f"{clients} clients": _measured(service, plan, body, clients, best) for clients in plan.clients}


def _measured(service: Service, plan: Plan, body: bytes, clients: int, best: float | None) -> dict[str, Any]:
    request = post_request("/classify?top_k=1", body, {"Content-Type": "image/jpeg"})
    looks: list[float] = []
    with Generator([(HOST, service.port)], [request]) as generator:
        generator.closed_loop(clients=clients, seconds=plan.seconds)
        before, busy = _stages(service), _processor_seconds(service)
        over = threading.Event()
        watching = threading.Thread(target=_watch, args=[service, looks, over])
        watching.start()
        started = time.monotonic()
        samples = generator.closed_loop(clients=clients, seconds=5 * plan.seconds)
        elapsed = time.monotonic() - started
        over.set()
        watching.join()
        after = _stages(service)
    answered = samples.of(200) * 1000
    per_second = len(answered) / elapsed
    return {
        "per_second": per_second,
        "of_session": per_second / best if best else None,
        "p50_ms": float(np.percentile(answered, 50)),
        "p99_ms": float(np.percentile(answered, 99)),
        "not_answered": len(samples) - len(answered),
        "stages_ms": {
            stage: (after[stage][0] - before[stage][0]) / max(1, after[stage][1] - before[stage][1]) * 1000
            for stage in STAGES
        },
        "rows_in_a_batch": (after["batch"][0] - before["batch"][0]) / max(1, after["batch"][1] - before["batch"][1]),
        "service_cores": (_processor_seconds(service) - busy) / elapsed,
        "generator_cores": samples.processor_seconds / elapsed,
        "gpu_utilisation": statistics.mean(looks) if looks else None,
    }


def _watch(service: Service, looks: list[float], over: threading.Event) -> None:
    while not over.wait(_LOOK):
        looks.extend(service.samples("aaserve_gpu_utilisation_ratio").values())


def _stages(service: Service) -> dict[str, tuple[float, float]]:
    """Sum and count by stage, and of the rows in a batch."""
    name = "aaserve_stage_duration_seconds"
    found = {
        stage: (service.metric(f"{name}_sum", stage=stage), service.metric(f"{name}_count", stage=stage))
        for stage in STAGES
    }
    return {**found, "batch": (service.metric("aaserve_batch_size_sum"), service.metric("aaserve_batch_size_count"))}


def _processor_seconds(service: Service) -> float:
    total = 0.0
    for process in (service.process.pid, *service.workers()):
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total
