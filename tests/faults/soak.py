"""python -m tests.faults.soak --output FILE [--minutes 10]

Mixed traffic for a long time: tiny and real pictures, batches, tensors, what is refused, clients who leave, and models
that change all the while. Something that grows, slows down or goes wrong now and then is found here.
"""

import argparse
import asyncio
import hashlib
import io
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import uvloop
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.harness.circumstances import ROOT, write_result
from tests.faults.connections import Connections
from tests.faults.running import HOST, Service, running
from tests.toy_bundles import picture, write_fragile_bundle

GROWTH = 0.03  # of the resident memory after the warm-up, at most
WARM_UP = 0.25  # of the run, within the bounds below
SHORTEST_WARM_UP, LONGEST_WARM_UP = (
    60,
    600,
)  # seconds; models must have changed several times: each keeps its predecessor
JUDGED = 30  # seconds after the warm-up, at least: less says nothing about growth
KEY = "soak"
AUTHORIZATION = {"Authorization": f"Bearer {KEY}"}
MODEL = "aa-cifar100"


@dataclass(frozen=True)
class Kind:
    """Requests of one sort, each on a kept-alive connection."""

    name: str
    requests: Sequence[bytes]
    clients: int = 1
    pause: float = 0.05  # seconds of a client between two requests


@dataclass
class Record:
    """What was seen of the service."""

    ended: Counter[tuple[str, int]] = field(default_factory=Counter)  # kind and status; 0: the connection broke
    seconds: defaultdict[int, "array[float]"] = field(
        default_factory=lambda: defaultdict(lambda: array("f"))
    )  # by minute
    samples: list[tuple[float, int, int, int]] = field(default_factory=list)  # seconds, RSS, files, threads
    changes: Counter[str] = field(default_factory=Counter)


def kinds() -> list[Kind]:
    """The mix."""
    tiny = [_post("/classify?model=fragile", picture(red)) for red in range(0, 100, 5)]
    photographs = [path.read_bytes() for path in sorted((ROOT / "examples").glob("*.jpg"))]
    real = [_post(f"/classify?model={MODEL}&top_k=1", photograph) for photograph in photographs]
    several = [
        _form("/classify/batch?model=fragile", [picture(red) for red in range(start, start + 4)]) for start in (0, 9)
    ]
    tensor = {"name": "pixels", "shape": [1, 8, 8, 3], "datatype": "UINT8", "data": [7] * 192}
    infer = json.dumps({"inputs": [tensor]}).encode()
    bad = [
        _post("/classify?model=fragile", b"no picture"),
        _post("/classify?model=fragile", photographs[0][:5000]),
        _post("/classify?model=fragile", b""),
        _post("/classify?model=fragile&top_k=0", picture(1)),
        _post("/classify?model=unknown", picture(1)),
        _post("/classify?model=fragile", b'{"image": 1}', "application/json"),
        _post("/classify?model=fragile", _bomb()),
    ]
    return [
        Kind("tiny", tiny, clients=4, pause=0),
        Kind("real", real),
        Kind("batch", several),
        Kind("v2", [_post("/v2/models/fragile/infer", infer, "application/json")]),
        Kind("bad", bad),
    ]


async def soak(service: Service, repository: Path, seconds: float, record: Record) -> None:
    """All of it for `seconds`."""
    connections = Connections(HOST, service.port)
    start = time.monotonic()
    end = start + seconds

    async def client(kind: Kind, seed: int) -> None:
        chance = random.Random(seed)
        while (began := time.monotonic()) < end:
            async with connections.one() as connection:
                status = await connection.send(chance.choice(kind.requests))
            record.ended[kind.name, status] += 1
            now = time.monotonic()
            if status == 200 and kind.name == "tiny":
                record.seconds[int((now - start) / 60)].append(now - began)
            await asyncio.sleep(kind.pause)

    async def every(pause: float, action: Callable[[], Awaitable[None]]) -> None:
        while time.monotonic() + pause < end:
            await asyncio.sleep(pause)
            await action()

    async def measure() -> None:
        record.samples.append((time.monotonic() - start, service.memory("VmRSS"), service.files(), service.threads()))

    sources = _Sources(service, repository, record)
    async with asyncio.TaskGroup() as group:
        for kind in kinds():
            for number in range(kind.clients):
                group.create_task(client(kind, number))
        for pause, action in ((0.1, sources.leave), (0.2, sources.wander), (5, sources.scrape), (7, sources.change)):
            group.create_task(every(min(pause, seconds / 6), action))  # several times in the shortest run
        group.create_task(every(1, measure))
        with Progress(
            TextColumn("soaking"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[word]}")
        ) as bar:
            task = bar.add_task("soaking", total=seconds, word="")
            while (now := time.monotonic()) < end:
                word = f"{sum(record.ended.values()):,} requests, {service.memory('VmRSS') / 2**20:.0f} MiB"
                bar.update(task, completed=now - start, word=word)
                await asyncio.sleep(1)
    connections.close()


class _Sources:
    """What does not come as one request after another."""

    def __init__(self, service: Service, repository: Path, record: Record) -> None:
        self._service = service
        self._repository = repository
        self._record = record
        self._client = httpx.AsyncClient(base_url=f"http://{HOST}:{service.port}", headers=AUTHORIZATION, timeout=60)
        self._photograph = (ROOT / "examples" / "rocket.jpg").read_bytes()

    async def leave(self) -> None:
        """Send half a picture or a whole one, and be gone; with a chance, before the answer."""
        request = _post(f"/classify?model={MODEL}", self._photograph)
        _, writer = await asyncio.open_connection(HOST, self._service.port)
        writer.write(request[: len(request) // random.choice((1, 2))])
        with suppress(OSError):
            await writer.drain()
        writer.close()
        self._record.ended["leaving", 499] += 1

    async def wander(self) -> None:
        """Ask for what nobody has asked for before."""
        response = await self._client.get(f"/{random.getrandbits(64):x}", headers={"X-Request-ID": os.urandom(8).hex()})
        self._record.ended["unknown path", response.status_code] += 1

    async def scrape(self) -> None:
        for path in ("/metrics", "/models", "/health/ready"):
            response = await self._client.get(path)
            self._record.ended[path, response.status_code] += 1

    async def change(self) -> None:
        """One of: new settings by SIGHUP, the same by a key, a rollback, a model that is no model."""
        way = random.choice(("sighup", "load", "rollback", "damaged"))
        self._record.changes[way] += 1
        serving = self._repository / "fragile" / "serving.toml"
        serving.write_text(f"max_queue_size = {random.randrange(100, 200)}\n")
        if way == "sighup":
            self._service.process.send_signal(signal.SIGHUP)
        elif way == "damaged":
            serving.write_text("max_queue_size = nothing\n")
            self._service.process.send_signal(signal.SIGHUP)
        else:
            response = await self._client.post(f"/admin/models/fragile/{way}")
            self._record.ended[f"admin {way}", response.status_code] += 1


_EXPECTED = {  # statuses that are right, of each kind and of what `_Sources` sends
    "tiny": {200},
    "real": {200},
    "batch": {200},
    "v2": {200},
    "bad": {400, 404, 413, 415, 422},
    "leaving": {499},
    "unknown path": {404},
    "/metrics": {200},
    "/models": {200},
    "/health/ready": {200},
    "admin load": {200},
    "admin rollback": {200, 404},  # 404: nothing has changed yet
}


def findings(record: Record, seconds: float) -> dict[str, object]:
    """What the record says."""
    warm = min(max(WARM_UP * seconds, SHORTEST_WARM_UP), LONGEST_WARM_UP)
    errors = {
        f"{kind} {status}": count
        for (kind, status), count in sorted(record.ended.items())
        if status not in _EXPECTED[kind]
    }
    found: dict[str, object] = {
        "minutes": round(seconds / 60, 1),
        "requests": sum(record.ended.values()),
        "by_kind": {f"{kind} {status}": count for (kind, status), count in sorted(record.ended.items())},
        "changes": dict(record.changes),
        "errors": errors,
        "tiny_ms_by_minute": [
            {f"p{q}": round(float(np.percentile(values, q)) * 1000, 2) for q in (50, 99)}
            for _, values in sorted(record.seconds.items())
        ],
        "resident_mib_by_minute": _by_minute(record.samples),
    }
    contract = {"no errors": not errors}
    if seconds >= warm + JUDGED:
        held, unchanged = _growth(record.samples, warm)
        found |= held
        contract |= unchanged
    return found | {"contract": contract}


def _growth(samples: list[tuple[float, int, int, int]], warm: float) -> tuple[dict[str, object], dict[str, bool]]:
    """What the service held after the warm-up and at the end, and the contract about that."""
    after = [sample for sample in samples if sample[0] >= warm]
    tenth = max(1, len(after) // 10)
    first, last = (
        [float(np.mean(column)) for column in zip(*part, strict=True)] for part in (after[:tenth], after[-tenth:])
    )
    growth = last[1] / first[1] - 1
    held = {
        "after_warm_up": _resources(first),
        "at_the_end": _resources(last),
        "resident_growth": round(growth, 4),
    }
    return held, {
        "memory grows by 3 % at most": growth <= GROWTH,
        "as many threads": math.isclose(first[3], last[3], abs_tol=2),
        "as many files": math.isclose(first[2], last[2], abs_tol=5),
    }


def _resources(sample: list[float]) -> dict[str, float]:
    return {"resident_mib": round(sample[1] / 2**20, 1), "files": round(sample[2], 1), "threads": round(sample[3], 1)}


def _by_minute(samples: list[tuple[float, int, int, int]]) -> list[float]:
    minutes: defaultdict[int, list[int]] = defaultdict(list)
    for seconds, resident, _, _ in samples:
        minutes[int(seconds / 60)].append(resident)
    return [round(float(np.mean(values)) / 2**20, 1) for _, values in sorted(minutes.items())]


def _post(path: str, body: bytes, content_type: str = "application/octet-stream") -> bytes:
    headers = {"Host": "aaserve", **AUTHORIZATION, "Content-Type": content_type, "Content-Length": str(len(body))}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode() + body


def _form(path: str, pictures: list[bytes]) -> bytes:
    request = httpx.Request("POST", f"http://{HOST}{path}", files=[("image", ("a.png", one)) for one in pictures])
    return _post(path, request.read(), request.headers["content-type"])


def _bomb() -> bytes:
    """A small file of very many pixels."""
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    return file.getvalue()


def _show(console: Console, found: dict) -> None:
    if "after_warm_up" in found:
        table = Table("", "after warm-up", "at the end")
        for name in ("resident_mib", "files", "threads"):
            table.add_row(name, str(found["after_warm_up"][name]), str(found["at_the_end"][name]))
        console.print(table)
    else:
        needed = (SHORTEST_WARM_UP + JUDGED) / 60
        console.print(
            f"memory, threads and files are not judged: expected {needed:g} minutes, found {found['minutes']}"
        )
    minutes = Table("minute", "p50, ms", "p99, ms", "resident, MiB")
    for number, (latency, resident) in enumerate(
        zip(found["tiny_ms_by_minute"], found["resident_mib_by_minute"], strict=False)
    ):
        minutes.add_row(str(number), str(latency["p50"]), str(latency["p99"]), str(resident))
    console.print(minutes)
    for title in ("by_kind", "errors", "contract"):
        console.print(f"{title}: {found[title]}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__.splitlines()[2])
    parser.add_argument("--minutes", type=float, default=10, help="how long (default: 10)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    record = Record()
    with tempfile.TemporaryDirectory() as folder:
        repository, keys = Path(folder) / "repository", Path(folder) / "keys"
        write_fragile_bundle(repository)
        shutil.copytree(ROOT / "model_repository" / MODEL, repository / MODEL)
        keys.write_text(f"infer,admin,metrics {hashlib.sha256(KEY.encode()).hexdigest()}\n")
        with running("--repository", str(repository), "--api-keys-file", str(keys), fork=False) as service:
            uvloop.run(soak(service, repository, arguments.minutes * 60, record))
    found = findings(record, arguments.minutes * 60)
    _show(Console(), found)
    write_result(arguments.output, found, "onnxruntime", "pillow", "fastapi", "uvicorn", "prometheus-client")
    return 0 if all(found["contract"].values()) else 1  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main())
