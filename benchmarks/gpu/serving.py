"""The steps that start the service: load over HTTP, and memory while models come and go."""

import hashlib
import shutil
import statistics
import tempfile
import threading
import time
from pathlib import Path

import httpx

from benchmarks.gpu.plan import Plan, Results, Row
from benchmarks.harness.generator import Generator, post_request
from benchmarks.harness.pictures import photographs
from benchmarks.harness.process_tree import processor_seconds
from benchmarks.harness.random_bundles import random_bundle
from benchmarks.harness.samples import percentiles
from tests.faults.running import HOST, Service, running, wait_until

STAGES = ("receive", "decode", "queue", "inference", "respond")
KEY = "measured"
LOOK = 0.5  # seconds between two readings of the GPU's utilisation


def serving(plan: Plan, results: Results) -> None:
    for workers, lanes in plan.served:
        results.case(
            f"serving, {workers} workers, {lanes} lanes",
            lambda workers=workers, lanes=lanes: served(plan, workers, lanes),
        )


def served(plan: Plan, workers: int, lanes: int) -> Row:
    """Measurements by number of clients."""
    options = [*_options(plan, _repository(plan)), "--workers", str(workers), "--gpu-lanes", str(lanes)]
    with running(*options, fork=False) as service:
        wait_until(lambda: service.lines("is loaded and warmed up") == workers)
        return {f"{clients} clients": load(service, plan, clients) for clients in plan.clients}


def load(service: Service, plan: Plan, clients: int) -> Row:
    """One closed loop: throughput, latency, mean time of each stage, batch size, processor time and utilisation."""
    requests = [post_request("/classify?top_k=1", one, {"Content-Type": "image/jpeg"}) for one in photographs()]
    utilisation: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK):
            utilisation.extend(service.samples("aaserve_gpu_utilisation_ratio").values())

    with Generator([(HOST, service.port)], requests) as generator:
        generator.closed_loop(clients=clients, seconds=plan.seconds / 3)
        before, busy = _stages(service), processor_seconds(service.process.pid)
        watching = threading.Thread(target=watch)
        watching.start()
        started = time.monotonic()
        samples = generator.closed_loop(clients=clients, seconds=plan.seconds)
        elapsed = time.monotonic() - started
        busy = processor_seconds(service.process.pid) - busy
        over.set()
        watching.join()
    after = _stages(service)

    def mean(what: str) -> float:
        return (after[what][0] - before[what][0]) / max(1, after[what][1] - before[what][1])

    return {
        "per_second": samples.answered_per_second,
        "ms": percentiles(samples.of(200)),
        "codes": samples.codes,
        "stages_ms": {stage: mean(stage) * 1000 for stage in STAGES},
        "rows_in_a_batch": mean("batch"),
        "service_cores": busy / elapsed,
        "generator_cores": samples.processor_seconds / elapsed,
        "gpu_utilisation": statistics.mean(utilisation) if utilisation else None,
    }


def memory(plan: Plan, results: Results) -> None:
    results.case("memory", lambda: unloaded(plan))


def unloaded(plan: Plan) -> Row:
    """Seconds to readiness; bytes with two models, after one is unloaded, and after it is loaded again."""
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        keys.write_text(f"admin,metrics,infer {hashlib.sha256(KEY.encode()).hexdigest()}\n")
        repository = Path(folder) / "repository"
        shutil.copytree(_repository(plan), repository)
        [name] = [path.name for path in repository.iterdir()]
        other = random_bundle("tiny" if name != "tiny" else "wide_resnet10_1").parent
        shutil.copytree(other, repository / other.name)
        started = time.monotonic()
        with running(*_options(plan, repository), "--api-keys-file", str(keys), fork=False) as service:
            found: Row = {"seconds_to_ready": time.monotonic() - started}
            headers = {"Authorization": f"Bearer {KEY}"}
            with httpx.Client(base_url=f"http://{HOST}:{service.port}", headers=headers, timeout=60) as client:
                found["loaded"] = _memory(client, service)
                client.post(f"/admin/models/{name}/unload").raise_for_status()
                wait_until(lambda: service.lines("is unloaded"))
                found["unloaded"] = _memory(client, service)
                client.post(f"/admin/models/{name}/load").raise_for_status()
                found["loaded again"] = _memory(client, service)
    return found


def _repository(plan: Plan) -> Path:
    return random_bundle(plan.networks[0], "fp16").parent.parent


def _options(plan: Plan, repository: Path) -> list[str]:
    rows = plan.max_batch_size
    return [
        *("--repository", str(repository), "--provider", plan.device),
        *("--max-batch-size", str(rows), "--max-queue-size", str(16 * rows)),
    ]


def _stages(service: Service) -> dict[str, tuple[float, float]]:
    """Sum and count of each stage's seconds, and of the rows in a batch."""
    sums, counts = (service.samples(f"aaserve_stage_duration_seconds_{what}") for what in ("sum", "count"))

    def total(stage: str, samples: dict[str, float]) -> float:
        return sum(value for sample, value in samples.items() if f'stage="{stage}"' in sample)

    batches = (service.metric("aaserve_batch_size_sum"), service.metric("aaserve_batch_size_count"))
    return {stage: (total(stage, sums), total(stage, counts)) for stage in STAGES} | {"batch": batches}


def _memory(client: httpx.Client, service: Service) -> Row:
    """Bytes of the process, and of the GPU in all, if there is one."""
    used = [
        float(line.rpartition(" ")[2])
        for line in client.get("/metrics").text.splitlines()
        if line.startswith("aaserve_gpu_memory_used_bytes{")
    ]
    return {"resident_bytes": service.memory("VmRSS"), "gpu_bytes": used[0] if used else None}
