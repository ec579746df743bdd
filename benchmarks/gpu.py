"""python -m benchmarks.gpu [STEP …] --device cuda|cpu [--output FILE]

    parity       logits of fp32, TF32 and fp16 on the device, compared with fp32 on the CPU
    throughput   images per second of the service's session by batch size, with 1 to 3 calling threads
    pytorch      the same for PyTorch, eager and compiled
    serving      the service over HTTP, by workers, lanes and clients; photographs of 100 kB
    memory       time to readiness; memory with a model, without it, and with it loaded again

The result file is written after each case. A case that fails is recorded with its error, and the next one runs; the
exit status is then 1. `--device cpu` is a small dry run: its figures say nothing about a GPU.
"""

import argparse
import hashlib
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

import aaserve.bundle.telemetry  # noqa: F401  (before onnxruntime)
from aaserve.bundle.bundle import open_bundle
from aaserve.export.judgement.parity import TOLERANCES
from aaserve.service.engine.runtime.session import OnnxSession
from aaserve.service.settings import Settings
from benchmarks.circumstances import ROOT, write_result
from benchmarks.generator import Generator
from benchmarks.load import post_request
from benchmarks.peers.process_tree import processor_seconds
from benchmarks.pictures import photographs
from benchmarks.random_bundles import described_network, random_bundle
from benchmarks.samples import percentiles
from tests.faults.running import HOST, Service, running, wait_until

STAGES = ("receive", "decode", "queue", "inference", "respond")
KEY = "measured"
ROWS = 4  # images in the parity step
LOOK = 0.5  # seconds between two readings of the GPU's utilisation

Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is measured on a device.

    Args:
        served: workers, and lanes of each.
        max_batch_size: of the service in the step serving.
        batches: in the steps throughput and pytorch.
        seconds: of one measurement.
    """

    device: str
    networks: tuple[str, ...]
    served: tuple[tuple[int, int], ...]
    clients: tuple[int, ...]
    max_batch_size: int
    batches: tuple[int, ...]
    seconds: float


PLANS = {
    "cuda": Plan(
        device="cuda",
        networks=("aa_resnet50", "resnet50"),
        served=((1, 1), (4, 1), (8, 1), (4, 2), (1, 2)),
        clients=(1, 16, 64, 256),
        max_batch_size=64,
        batches=(1, 8, 64, 256),
        seconds=2.0,
    ),
    "cpu": Plan(
        device="cpu",
        networks=("tiny",),
        served=((1, 1),),
        clients=(1, 2),
        max_batch_size=2,
        batches=(1, 2),
        seconds=0.25,
    ),
}


class Results:
    """The cases measured so far, kept in a file."""

    def __init__(self, path: Path, facts: Row) -> None:
        self._path, self._facts = path, facts
        self.cases: dict[str, Row] = {}

    def case(self, name: str, measure: Callable[[], Row]) -> None:
        """Measure one case and write the file. An error is a result too."""
        try:
            row = measure()
        except (Exception, SystemExit) as error:  # SystemExit: the service did not start
            row = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
        self.cases[name] = row
        print(f"{name:<48} {row}", flush=True)
        write_result(self._path, {**self._facts, "cases": self.cases}, "numpy")

    @property
    def failed(self) -> list[str]:
        return [name for name, row in self.cases.items() if "error" in row]


def parity(plan: Plan, results: Results) -> None:
    for network in plan.networks:
        for precision, tf32 in (("fp32", False), ("fp32", True), ("fp16", False)):
            if not tf32 or plan.device == "cuda":
                words = "tf32" if tf32 else precision
                results.case(
                    f"parity, {network}, {words}",
                    lambda network=network, precision=precision, tf32=tf32: compared(plan, network, precision, tf32),
                )


def compared(plan: Plan, network: str, precision: str, tf32: bool) -> Row:
    """Differences from fp32 on the CPU, which the export has compared with PyTorch.

    Raises:
        ArithmeticError: they are larger than the export allows in this precision.
    """
    exact = _session(network, "fp32", Settings(provider="cpu"))
    session = _session(network, precision, Settings(provider=plan.device, tf32=tf32, max_batch_size=ROWS))
    batch = _pixels(network, ROWS)
    expected, found = (next(iter(each.run(batch).values())) for each in (exact, session))  # (ROWS, classes)
    worst = float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
    allowed = TOLERANCES["fp16" if tf32 else precision]  # type: ignore[index]
    if not worst <= allowed:  # NaN fails too
        raise ArithmeticError(f"expected logits within {allowed:.0e} of the largest, found {worst:.1e}")
    return {
        "relative_error": float(np.linalg.norm(found - expected) / np.linalg.norm(expected)),
        "largest_difference": worst,
        "same_top_1": float((found.argmax(1) == expected.argmax(1)).mean()),
    }


def throughput(plan: Plan, results: Results) -> None:
    for network in plan.networks:
        for threads in (1, 2, 3):
            results.case(
                f"throughput, {network}, fp16, {threads} threads",
                lambda network=network, threads=threads: session_rates(plan, network, threads),
            )


def session_rates(plan: Plan, network: str, threads: int) -> Row:
    """Images per second by batch size. Each of `threads` calls again at once; copies to and from the GPU count."""
    session = _session(network, "fp16", Settings(provider=plan.device, max_batch_size=max(plan.batches)))
    return _by_batch(plan, network, session.run, threads)


def pytorch(plan: Plan, results: Results) -> None:
    for network in plan.networks:
        for how in ("eager", "compiled") if plan.device == "cuda" else ("eager",):
            results.case(
                f"pytorch, {network}, fp16, {how}",
                lambda network=network, how=how: pytorch_rates(plan, network, compiled=how == "compiled"),
            )


def pytorch_rates(plan: Plan, network: str, *, compiled: bool) -> Row:
    """As `session_rates` with one thread: float16 and channels last; pixels are normalised on the device."""
    import torch

    from aaserve.models import create_model

    described = described_network(network)
    half = torch.float16 if plan.device == "cuda" else torch.float32
    model = create_model(described["architecture"], **described["options"]).eval()
    model = model.to(plan.device, half, memory_format=torch.channels_last)  # type: ignore[call-overload]
    forward = torch.compile(model) if compiled else model

    def call(pixels: np.ndarray) -> object:
        with torch.inference_mode():
            rows = torch.from_numpy(pixels).to(plan.device).permute(0, 3, 1, 2).to(half)
            return forward((rows - 127.5) / 64).cpu()

    return _by_batch(plan, network, call, threads=1)


def _by_batch(plan: Plan, network: str, call: Callable[[np.ndarray], object], threads: int) -> Row:
    """Images per second by batch size of threads that call again at once."""
    found = {}
    for rows in plan.batches:
        batch = _pixels(network, rows)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(call, [batch] * 2 * threads))
            end = time.monotonic() + plan.seconds

            def calls(_: int, end: float = end, batch: np.ndarray = batch) -> int:
                number = 0
                while time.monotonic() < end:
                    call(batch)
                    number += 1
                return number

            started = time.monotonic()
            found[rows] = sum(pool.map(calls, range(threads))) * rows / (time.monotonic() - started)
    return {"images_per_second": found}


def serving(plan: Plan, results: Results) -> None:
    for workers, lanes in plan.served:
        results.case(
            f"serving, {workers} workers, {lanes} lanes",
            lambda workers=workers, lanes=lanes: served(plan, workers, lanes),
        )


def served(plan: Plan, workers: int, lanes: int) -> Row:
    """Measurements by number of clients."""
    options = [*_options(plan, _repository(plan)), "--workers", str(workers), "--gpu-lanes", str(lanes)]
    with running(*options) as service:
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
        with running(*_options(plan, repository), "--api-keys-file", str(keys)) as service:
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


def _session(network: str, precision: str, settings: Settings) -> OnnxSession:
    return OnnxSession(
        open_bundle(random_bundle(network, precision)), settings, fixed_shapes=settings.provider != "cpu"
    )


def _pixels(network: str, rows: int) -> np.ndarray:
    """Random images (rows, H, W, 3), ready for the model."""
    shape = open_bundle(random_bundle(network)).manifest.input.shape
    return np.random.default_rng(0).integers(0, 256, (rows, *shape), dtype=np.uint8)


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


STEPS: dict[str, Callable[[Plan, Results], None]] = {
    "parity": parity,
    "throughput": throughput,
    "pytorch": pytorch,
    "serving": serving,
    "memory": memory,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="What the service does on a GPU.")
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)} (default: all)")
    parser.add_argument("--device", choices=PLANS, required=True, help="cpu: a small dry run")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "gpu.json", help="JSON (default: runs/gpu.json)")
    arguments = parser.parse_args()
    if unknown := set(arguments.steps) - set(STEPS):
        parser.error(f"no step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    facts = {"device": arguments.device}
    if arguments.device == "cpu":
        facts["note"] = "dry run on a CPU: its figures say nothing about a GPU"
    results = Results(arguments.output, facts)
    for step in arguments.steps or STEPS:
        STEPS[step](PLANS[arguments.device], results)
    for name in results.failed:
        print(f"failed: {name}", file=sys.stderr)
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
