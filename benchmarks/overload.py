"""python -m benchmarks.overload --output FILE [--image FILE] [--side PIXELS] [--seconds S] [--timeout-ms MS] [--pin]

What happens at 1, 2, 5 and 10 times the load that the service can bear. The real service is started on the shipped
bundle, its capacity found in a closed loop, then requests arrive at random (Poisson) whether it keeps up or not.

The contract: goodput (answers within the deadline per second) is at least 90 % of the peak at every load, the 99th
percentile of accepted requests is within the deadline, and that of refusals below 20 ms.
"""

import argparse
import asyncio
import io
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import uvloop
from PIL import Image

from benchmarks.circumstances import ROOT, write_result
from benchmarks.open_loop import Connections, Sample, closed_loop, open_loop

LOADS = (1, 2, 5, 10)
CLIENTS = 32  # of the closed loop: four full batches
GOODPUT, REFUSAL_SECONDS = 0.9, 0.02


@contextmanager
def service(options: list[str], cores: list[int] | None) -> Iterator[tuple[str, int, int]]:
    """Host, port and process id of a service that is ready; it logs a line a request into a file, as users have it."""
    with tempfile.NamedTemporaryFile("w+", prefix="aaserve-", suffix=".log") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "--port", "0", "--log-format", "json", *options],
            cwd=ROOT,
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
    """What every request sends."""
    if side is None:
        return path.read_bytes()
    file = io.BytesIO()
    Image.open(path).convert("RGB").resize((side, side)).save(file, "JPEG", quality=75)
    return file.getvalue()


def processor_seconds(process: int) -> float:
    """Of another process, all its threads together."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def percentiles(seconds: list[float]) -> dict[str, float] | None:
    """Milliseconds."""
    if not seconds:
        return None
    return {f"p{q}": round(float(np.percentile(seconds, q)) * 1000, 2) for q in (50, 99)}


def summary(samples: list[Sample], *, seconds: float, deadline: float) -> dict[str, object]:
    """What the callers saw."""
    accepted = [sample.seconds for sample in samples if sample.status == 200]
    in_time = [latency for latency in accepted if latency <= deadline]
    return {
        "sent_per_second": round(len(samples) / seconds, 1),
        "goodput_per_second": round(len(in_time) / seconds, 1),
        "accepted_ms": percentiles(accepted),
        "refused_ms": percentiles([sample.seconds for sample in samples if sample.status == 429]),
        "codes": {str(code): count for code, count in sorted(Counter(sample.status for sample in samples).items())},
        "generator_late_ms": percentiles([sample.late for sample in samples]),
    }


def request_of(body: bytes, *, timeout_ms: int = 1000) -> bytes:
    """A picture to be classified, as it goes over the wire."""
    head = (
        "POST /classify?top_k=1 HTTP/1.1\r\nHost: aaserve\r\nContent-Type: image/jpeg\r\n"
        f"X-Request-Timeout-Ms: {timeout_ms}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def measure(arguments: argparse.Namespace, body: bytes, host: str, port: int, process: int) -> dict[str, object]:
    """Capacity, then every load."""
    deadline = arguments.timeout_ms / 1000
    request = request_of(body, timeout_ms=arguments.timeout_ms)
    connections = Connections(host, port)
    await closed_loop(connections, request, clients=CLIENTS, seconds=1)
    samples = await closed_loop(connections, request, clients=CLIENTS, seconds=arguments.seconds)
    capacity = sum(sample.status == 200 for sample in samples) / arguments.seconds
    print(f"capacity {capacity:.0f} requests/s")
    await connections.prepare(512)
    loads = []
    for load in LOADS:
        await asyncio.sleep(1)
        busy, own, started = processor_seconds(process), own_processor_seconds(), time.monotonic()
        samples = await open_loop(
            connections, request, per_second=load * capacity, seconds=arguments.seconds, seed=load
        )
        elapsed = time.monotonic() - started
        found = {
            "load": load,
            **summary(samples, seconds=arguments.seconds, deadline=deadline),
            "service_cores": round((processor_seconds(process) - busy) / elapsed, 2),
            "generator_cores": round((own_processor_seconds() - own) / elapsed, 2),
        }
        print(found)
        loads.append(found)
    connections.close()
    return {"capacity_per_second": round(capacity, 1), "deadline_ms": arguments.timeout_ms, "loads": loads}


def verdict(measured: dict) -> dict[str, bool]:
    """Which sentences of the contract hold."""
    loads = measured["loads"]
    peak = max(load["goodput_per_second"] for load in loads)
    return {
        "goodput at least 90 % of the peak": all(load["goodput_per_second"] >= GOODPUT * peak for load in loads),
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
        "--image", type=Path, default=ROOT / "examples" / "astronaut.jpg", help="what every request sends"
    )
    parser.add_argument(
        "--side", type=int, help="enlarge it to a square of so many pixels first (a JPEG of quality 75)"
    )
    parser.add_argument("--seconds", type=float, default=10, help="of each load")
    parser.add_argument("--timeout-ms", type=int, default=1000, help="deadline of every request")
    parser.add_argument("--pin", action="store_true", help="the service on core 0, the generator on core 1")
    parser.add_argument("--options", default="", help="options of the service, in one string")
    arguments = parser.parse_args()
    if arguments.pin:
        os.sched_setaffinity(0, [1])
    body = picture(arguments.image, arguments.side)
    with service(shlex.split(arguments.options), [0] if arguments.pin else None) as (host, port, process):
        measured = uvloop.run(measure(arguments, body, host, port, process))
    measured = {
        "image_bytes": len(body),
        "cores": "service on one, generator on another" if arguments.pin else "shared by service and generator",
        **measured,
        "contract": verdict(measured),
    }
    print(measured["contract"])
    write_result(arguments.output, measured, "onnxruntime", "pillow", "fastapi", "uvicorn", "uvloop")
    return 0 if all(measured["contract"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
