"""One server's turn in one workload: start, check of answers, all loads, end.

A server is started again for each turn. Pausing it (SIGSTOP) between turns would save the start but not the memory, and
several servers do not survive it: Ray's nodes and the supervisors of BentoML and LitServe treat silence as death. A new
start also contributes to the spread between rounds, as it does for users.
"""

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.harness.generator import Generator, post_request
from benchmarks.harness.process_tree import processor_seconds, resident_bytes, tree
from benchmarks.harness.samples import Samples, summary
from benchmarks.harness.workloads import Workload
from benchmarks.peers.peer import Served

CLIENTS = (1, 8, 32)
SHARES = (0.5, 0.8, 0.95)  # of the server's own throughput at the largest number of clients
WARM_UP = 2.0  # seconds


class Server(Protocol):
    """A peer, or aaserve."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def installed(self) -> bool: ...
    def install(self) -> Path: ...
    def serve(self, bundle: Path, *, cores: list[int] | None = None) -> AbstractContextManager[Served]: ...


@dataclass(frozen=True)
class Plan:
    """Seconds of each load; no open loops if a turn must be short."""

    seconds: float
    open_loops: bool


def take_turn(server: Server, workload: Workload, expected: list[int | None], plan: Plan, seed: int) -> dict[str, Any]:
    """The measurements; if too few answers are right, "disagrees" instead."""
    pictures = workload.pictures()
    started = time.monotonic()
    with server.serve(workload.bundle()) as served:
        ready = time.monotonic() - started
        found = [served.top_1(served.ask(picture, workload.media_type)) for picture in pictures]
        agreement = sum(one == other for one, other in zip(found, expected, strict=True)) / len(expected)
        turn: dict[str, Any] = {"seconds_to_ready": round(ready, 2), "top_1_agreement": agreement}
        if agreement < 1:
            return {**turn, "disagrees": {"found": found, "expected": expected}}
        with Generator([(served.host, port) for port in served.ports], _requests(served, workload)) as generator:
            generator.closed_loop(clients=max(CLIENTS), seconds=WARM_UP)
            for clients in CLIENTS:
                before = processor_seconds(served.process)
                samples = generator.closed_loop(clients=clients, seconds=plan.seconds)
                turn[f"{clients} clients"] = _measured(samples, before, served.process)
            capacity = turn[f"{max(CLIENTS)} clients"]["answered_per_second"]
            for share in SHARES if plan.open_loops and capacity else ():
                before = processor_seconds(served.process)
                samples = generator.open_loop(per_second=share * capacity, seconds=plan.seconds, seed=seed)
                turn[f"{share:.0%} of capacity"] = _measured(samples, before, served.process)
            turn["resident_mb"] = round(resident_bytes(served.process) / 1e6, 1)
            turn["processes"] = len(tree(served.process))
    return turn


def _requests(served: Served, workload: Workload) -> list[bytes]:
    requests = []
    for picture in workload.pictures():
        content_type, body = served.body(picture, workload.media_type)
        requests.append(post_request(served.path, body, {"Content-Type": content_type, **served.headers}))
    return requests


def _measured(samples: Samples, before: float, process: int) -> dict[str, Any]:
    used = processor_seconds(process) - before
    return {**summary(samples), "cpu_ms_each": round(used / max(1, len(samples)) * 1000, 3)}
