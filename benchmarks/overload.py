"""python -m benchmarks.overload --output FILE [--image FILE] [--side PIXELS] [--seconds S] [--timeout-ms MS] [--pin]

The service at 1, 2, 5 and 10 times its capacity.

Starts the real service with the shipped bundle and finds its capacity in a closed loop. Then requests arrive at random
(Poisson), whether or not it keeps up.

The contract: at every load, goodput (answers within the deadline per second) is at least 90 % of the peak, or of the
sent requests if these are fewer; the 99th percentile of accepted requests is within the deadline, and that of refusals
is below 20 ms.
"""

import argparse
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from benchmarks.harness.circumstances import REPOSITORY, ROOT, write_result
from benchmarks.harness.generator import Generator, post_request
from benchmarks.harness.process_tree import processor_seconds
from benchmarks.harness.samples import Samples, percentiles

LOADS = (1, 2, 5, 10)
CLIENTS = 32  # in the closed loop: four full batches
GOODPUT, REFUSAL_SECONDS = 0.9, 0.02


@contextmanager
def service(options: list[str], cores: list[int] | None, *, tree: Path = ROOT) -> Iterator[tuple[str, int, int]]:
    """Host, port and process id of a ready service, which logs one line per request into a file, as in production.

    It serves aa-cifar100 unless `options` name a repository.
    """
    if "--repository" not in options:
        options = ["--repository", str(REPOSITORY), *options]
    with tempfile.NamedTemporaryFile("w+", prefix="aaserve-", suffix=".log") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "--port", "0", "--log-format", "json", *options],
            cwd=tree,
            stderr=log,
            preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
        )
        try:
            while '"message":"ready"' not in (lines := Path(log.name).read_text()):
                if process.poll() is not None:
                    raise SystemExit(f"error: the service did not start\n{lines}")
                time.sleep(0.05)
            found = re.search(r"listening on http://([\d.]+):(\d+)", lines)
            assert found
            yield found[1], int(found[2]), process.pid
        finally:
            process.terminate()
            process.wait(30)


def picture(path: Path, side: int | None) -> bytes:
    """The picture in every request."""
    if side is None:
        return path.read_bytes()
    file = io.BytesIO()
    Image.open(path).convert("RGB").resize((side, side)).save(file, "JPEG", quality=75)
    return file.getvalue()


def summary(samples: Samples, *, seconds: float, deadline: float) -> dict[str, object]:
    """The results from the clients' side."""
    accepted = samples.of(200)
    return {
        "sent_per_second": round(len(samples) / seconds, 1),
        "goodput_per_second": round(int((accepted <= deadline).sum()) / seconds, 1),
        "accepted_ms": percentiles(accepted),
        "refused_ms": percentiles(samples.of(429)),
        "codes": samples.codes,
        "generator_late_ms": percentiles(samples.late),
    }


def request_of(body: bytes, *, timeout_ms: int = 1000) -> bytes:
    """The bytes of a request to classify a picture."""
    headers = {"Content-Type": "image/jpeg", "X-Request-Timeout-Ms": str(timeout_ms)}
    return post_request("/classify?top_k=1", body, headers)


def measure(arguments: argparse.Namespace, body: bytes, host: str, port: int, process: int) -> dict[str, object]:
    """Measure the capacity, then every load."""
    deadline = arguments.timeout_ms / 1000
    request = request_of(body, timeout_ms=arguments.timeout_ms)
    loads = []
    with Generator([(host, port)], [request]) as generator:
        generator.closed_loop(clients=CLIENTS, seconds=1)
        capacity = generator.closed_loop(clients=CLIENTS, seconds=arguments.seconds).answered_per_second
        print(f"capacity {capacity:.0f} requests/s")
        generator.prepare(512)
        for load in LOADS:
            time.sleep(1)
            busy, started = processor_seconds(process), time.monotonic()
            samples = generator.open_loop(per_second=load * capacity, seconds=arguments.seconds, seed=load)
            elapsed = time.monotonic() - started
            found = {
                "load": load,
                **summary(samples, seconds=arguments.seconds, deadline=deadline),
                "service_cores": round((processor_seconds(process) - busy) / elapsed, 2),
                "generator_cores": round(samples.processor_seconds / elapsed, 2),
            }
            print(found)
            loads.append(found)
    return {"capacity_per_second": round(capacity, 1), "deadline_ms": arguments.timeout_ms, "loads": loads}


def verdict(measured: dict) -> dict[str, bool]:
    """Which parts of the contract hold."""
    loads = measured["loads"]
    peak = max(load["goodput_per_second"] for load in loads)
    return {
        "goodput at least 90 % of the peak, or of what was sent": all(
            load["goodput_per_second"] >= GOODPUT * min(peak, load["sent_per_second"]) for load in loads
        ),
        "p99 of accepted within the deadline": all(
            load["accepted_ms"]["p99"] <= measured["deadline_ms"] for load in loads
        ),
        "p99 of refusals below 20 ms": all(
            load["refused_ms"]["p99"] < REFUSAL_SECONDS * 1000 for load in loads if load["refused_ms"]
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__.splitlines()[2])
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument(
        "--image", type=Path, default=ROOT / "examples" / "astronaut.jpg", help="picture in every request"
    )
    parser.add_argument(
        "--side", type=int, help="enlarge it first to a square with this side in pixels (a JPEG of quality 75)"
    )
    parser.add_argument("--seconds", type=float, default=10, help="duration of each load")
    parser.add_argument("--timeout-ms", type=int, default=1000, help="deadline of every request")
    parser.add_argument("--pin", action="store_true", help="the service on core 0, the generator on core 1")
    parser.add_argument("--options", default="", help="options of the service, in one string")
    arguments = parser.parse_args()
    if arguments.pin:
        os.sched_setaffinity(0, [1])
    body = picture(arguments.image, arguments.side)
    with service(shlex.split(arguments.options), [0] if arguments.pin else None) as (host, port, process):
        measured = measure(arguments, body, host, port, process)
    measured = {
        "image_bytes": len(body),
        "cores": "service on one, generator on another" if arguments.pin else "shared by service and generator",
        **measured,
        "contract": verdict(measured),
    }
    print(measured["contract"])
    write_result(arguments.output, measured, "onnxruntime", "pillow", "fastapi", "uvicorn")
    return 0 if all(measured["contract"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
