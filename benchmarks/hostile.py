"""python -m benchmarks.hostile --output FILE [--number N] [--seed S] [--clients C] [--pin]

Damaged pictures through the real service, as fast as it answers, while another process asks for its health.

The contract: every answer is 200 or a documented 4xx, none takes longer than the request's deadline, memory does not
grow once the first fifth has been seen (GROWTH_BYTES), and the health answers within 50 ms at the 99th percentile.
"""

import argparse
import asyncio
import http.client
import multiprocessing
import multiprocessing.synchronize
import os
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import httpx

from benchmarks.bad_pictures import damaged_pictures
from benchmarks.circumstances import REPOSITORY, write_result
from benchmarks.overload import service

ANSWERS = {"200", "400 invalid_image", "413 image_too_large", "415 unsupported_media_type"}
DEADLINE, HEALTH_SECONDS = 10.0, 0.05
GROWTH_BYTES = 64 * 2**20
_HEALTH_PAUSE = 0.01  # seconds


def answers(url: str, number: int, *, seed: int, clients: int) -> tuple[dict[str, Counter[str]], float]:
    """Send `number` damaged pictures; return how often each format got each answer, and the slowest in seconds."""
    return asyncio.run(_answers(url, damaged_pictures(number, seed=seed), clients))


async def _answers(url, pictures, clients):  # type: ignore[no-untyped-def]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    slowest = 0.0
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=3 * DEADLINE, limits=limits) as client:

        async def work() -> None:
            nonlocal slowest
            for name, picture in pictures:  # one iterator for all clients
                started = time.monotonic()
                answer = await client.post("/classify", content=picture, headers={"Content-Type": "image/*"})
                slowest = max(slowest, time.monotonic() - started)
                code = "" if answer.status_code == 200 else f" {answer.json().get('code')}"
                counts[name][f"{answer.status_code}{code}"] += 1

        await asyncio.gather(*(work() for _ in range(clients)))
    return counts, slowest


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def _ask_health(host: str, port: int, stop: multiprocessing.synchronize.Event, found: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    connection = http.client.HTTPConnection(host, port, timeout=60)
    seconds = []
    while not stop.is_set():
        started = time.monotonic()
        connection.request("GET", "/health/live")
        status = connection.getresponse().read() and 200
        assert status == 200
        seconds.append(time.monotonic() - started)
        time.sleep(_HEALTH_PAUSE)
    found.put(seconds)


def measure(number: int, *, seed: int, clients: int, cores: list[int] | None) -> dict[str, object]:
    """Figures of one service that lives through it all."""
    with service(["--repository", str(REPOSITORY)], cores) as (host, port, pid):
        url = f"http://{host}:{port}"
        before = resident_bytes(pid)
        first, slowest = answers(url, number // 5, seed=seed, clients=clients)
        warm = resident_bytes(pid)
        stop, found = multiprocessing.Event(), multiprocessing.Queue()  # type: ignore[var-annotated]
        asking = multiprocessing.Process(target=_ask_health, args=(host, port, stop, found))
        asking.start()
        started = time.monotonic()
        second, slowest_too = answers(url, number - number // 5, seed=seed + 1, clients=clients)
        seconds = time.monotonic() - started
        stop.set()
        health = sorted(found.get(timeout=60))
        asking.join()
        after = resident_bytes(pid)
    counts = {name: dict(sorted((first[name] + second[name]).items())) for name in sorted(first | second)}
    return {
        "pictures": number,
        "seed": seed,
        "clients": clients,
        "pictures_per_second": round((number - number // 5) / seconds, 1),
        "answers": counts,
        "slowest_answer_seconds": round(max(slowest, slowest_too), 3),
        "resident_bytes": {"ready": before, "after a fifth": warm, "in the end": after},
        "health": {
            "asked": len(health),
            "p50_ms": round(1000 * health[len(health) // 2], 2),
            "p99_ms": round(1000 * health[int(len(health) * 0.99)], 2),
            "slowest_ms": round(1000 * health[-1], 2),
        },
        "contract": {
            "only documented answers": all(set(found) <= ANSWERS for found in counts.values()),
            "within the deadline": max(slowest, slowest_too) < DEADLINE,
            "memory does not grow": after - warm < GROWTH_BYTES,
            "health within 50 ms": health[int(len(health) * 0.99)] < HEALTH_SECONDS,
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--number", type=int, default=20_000, help="pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", type=int, default=16, help="at once")
    parser.add_argument("--pin", action="store_true", help="service on the first core, load on the others")
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if given.pin:
        os.sched_setaffinity(0, cores[1:])
    measured = measure(given.number, seed=given.seed, clients=given.clients, cores=cores[:1] if given.pin else None)
    write_result(given.output, measured, "pillow", "httptools", "uvicorn", "onnxruntime")
    print(given.output.read_text())
    kept = measured["contract"]
    assert isinstance(kept, dict)
    return 0 if all(kept.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
