"""One function for each fault: the service under load, the fault, and what became of it.

Each returns how many requests were sent, how they ended for their senders, how the service counted them, how many
seconds it took until all was well again, and `checks`: sentences, each true or not.
"""

import asyncio
import itertools
import json
import os
import random
import resource
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.circumstances import ROOT
from benchmarks.faults.running import HOST, Service, running, wait_until
from benchmarks.faults.traffic import FOREIGN, SILENT, Traffic, ask, head
from service.metrics import REFRESH
from tests.toy_bundles import HANGS, picture, write_fragile_bundle

PICTURES = [path.read_bytes() for path in sorted((ROOT / "examples").glob("*.jpg"))]
PATH = "/classify?top_k=1"
MIB = 2**20
Findings = dict[str, object]

_EVERY_THIRD = """
import weakref
from pathlib import Path
from service.session import OnnxSession

run, calls = OnnxSession.run, weakref.WeakKeyDictionary()

def run_or_raise(self, batch):
    calls[self] = call = calls.get(self, 0) + 1
    if Path({flag!r}).exists() and call > 30 and call % 3 == 0:  # one that was just opened works
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")
    return run(self, batch)

OnnxSession.run = run_or_raise
"""
_SET_BACK = """
import time
from pathlib import Path

flag, true_time, true_time_ns = Path({flag!r}), time.time, time.time_ns
time.time = lambda: true_time() - 86_400 * flag.exists()
time.time_ns = lambda: true_time_ns() - 86_400_000_000_000 * flag.exists()
"""


async def killed_workers(seconds: float) -> Findings:
    """One of two workers, now and then both, killed by SIGKILL again and again under load."""
    chance = random.Random(0)
    with running("--workers", "2") as service:
        wait_until(lambda: service.lines('"message":"ready"') == 2)
        kills, recoveries = 0, []
        end = time.monotonic() + seconds
        async with _traffic(service) as traffic:
            while time.monotonic() < end:
                await asyncio.sleep(chance.uniform(0.2, 1.5))
                victims = chance.sample(service.workers(), 2 if len(recoveries) % 4 == 3 else 1)
                for victim in victims:
                    os.kill(victim, signal.SIGKILL)
                kills += len(victims)
                expected = 2 + kills
                recoveries.append(await _later(lambda: service.lines('"message":"ready"') == expected))  # noqa: B023
        answered, counted = traffic.outcomes.get("200", 0), service.counted()
        return {
            **_ended(traffic, counted),
            "kills": kills,
            "recovery_seconds": recoveries,
            "checks": {
                "each request was answered or its connection broke": set(traffic.outcomes) <= {"200", "broken"},
                "broken are at most those that a killed worker had": traffic.outcomes.get("broken", 0) <= kills * 8,
                # A worker can die between the answer and the count.
                "counters survive": answered - kills * 8 <= counted.get("200", 0) <= answered,
                "both workers are shown": service.metric("aaserve_queue_capacity") == 256,
                "nothing is left": _nothing_left(service),
            },
        }


async def raising_model(seconds: float) -> Findings:
    """A model that raises at every third call."""
    with tempfile.TemporaryDirectory() as folder:
        flag = Path(folder) / "raise"
        with running(patch=_EVERY_THIRD.format(flag=str(flag))) as service:
            async with _traffic(service) as traffic:
                await asyncio.sleep(0.5)
                flag.touch()
                await asyncio.sleep(seconds)
                await _later(lambda: traffic.outcomes.get("500", 0) > 0)
                flag.unlink()
                healed = time.monotonic()
                recovery = await _later(service.is_ready)
                after = healed + recovery
                await asyncio.sleep(1)
            counted = service.counted()
            reopened = service.metric("aaserve_model_reopened_total")
            return {
                **_ended(traffic, counted),
                "reopened": int(reopened),
                "recovery_seconds": [recovery],
                "checks": {
                    "ended as counted": counted == traffic.outcomes,
                    "200, 500 or, while it is opened again, 503": set(traffic.outcomes) <= {"200", "500", "503"},
                    "some failed": traffic.outcomes.get("500", 0) > 0,
                    "all is well afterwards": {ended.outcome for ended in traffic.since(after)} == {"200"},
                    "nothing is left": _nothing_left(service),
                },
            }


async def no_memory_for_a_second_model(seconds: float) -> Findings:
    """A model that does not fit into memory is put beside one that is served."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        write_fragile_bundle(repository, name="first")
        with running("--repository", folder) as service:
            write_fragile_bundle(repository, name="large", ballast_bytes=200 * MIB)
            path = f"{PATH}&model=first"
            async with _traffic(service, bodies=[picture(red) for red in range(100)], path=path) as traffic:
                await asyncio.sleep(seconds / 2)
                _limit(service, resource.RLIMIT_DATA, service.memory("VmData") + 64 * MIB)
                service.process.send_signal(signal.SIGHUP)
                refused = await _later(lambda: service.metric("aaserve_reloads_total", model="large", outcome="failed"))
                ready, shown = service.is_ready(), service.get("/models/large").json()
                await asyncio.sleep(seconds / 2)
                _limit(service, resource.RLIMIT_DATA, resource.RLIM_INFINITY)
                service.process.send_signal(signal.SIGHUP)
                recovery = await _later(lambda: service.metric("aaserve_model_ready", model="large"))
            return {
                **_ended(traffic, counted := service.counted()),
                "said": shown["failures"],
                "refused_after_seconds": refused,
                "recovery_seconds": [recovery],
                "checks": {
                    "ended as counted": counted == traffic.outcomes,
                    "the first model never stopped": set(traffic.outcomes) == {"200"},
                    "ready meanwhile": ready,
                    "the second says why in one line": len(shown["failures"]) == 1
                    and "\n" not in shown["failures"][0]["reason"],
                    "nothing is left": _nothing_left(service),
                },
            }


async def no_disk_for_logs(seconds: float) -> Findings:
    """The log may not grow any more, in the middle of a line; later it may."""
    with running() as service:
        async with _traffic(service) as traffic:
            await asyncio.sleep(0.5)
            _limit(service, resource.RLIMIT_FSIZE, service.log.stat().st_size + 1000)
            await asyncio.sleep(seconds)
            dropped, ready = service.metric("aaserve_log_lines_dropped_total"), service.is_ready()
            _limit(service, resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)
            recovery = await _later(lambda: service.lines("log lines were dropped before this one"))
        counted = service.counted()
        lines = service.log.read_text().splitlines()
        return {
            **_ended(traffic, counted),
            "dropped_lines": int(dropped),
            "recovery_seconds": [recovery],
            "checks": {
                "ended as counted": counted == traffic.outcomes,
                "all were answered": set(traffic.outcomes) == {"200"},
                "ready meanwhile": ready,
                "what was dropped is counted": dropped > 0,
                "all lines but one, torn by the limit, are whole": sum(not _is_json(line) for line in lines) <= 1,
            },
        }


async def nobody_reads_the_log(seconds: float) -> Findings:
    """stderr is a pipe that nobody empties; in the end somebody does."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    try:
        with running(stderr=writing) as service:
            async with _traffic(service, bodies=[b"no picture"], pause=0) as traffic:
                await asyncio.sleep(seconds)
                await _later(lambda: len(traffic.ended) * 200 > 2**16)  # more than fits into a pipe
                ready = service.is_ready()
            read = bytearray()
            recovery = await _later(lambda: read.extend(_content(reading)) or b"POST" in read)
            counted = service.counted()
            return {
                **_ended(traffic, counted),
                "recovery_seconds": [recovery],
                "checks": {
                    "ended as counted": counted == traffic.outcomes,
                    "all were answered": set(traffic.outcomes) == {"415"},
                    "ready meanwhile": ready,
                },
            }
    finally:
        os.close(reading)
        os.close(writing)


async def clock_set_back(seconds: float) -> Findings:
    """The wall clock is a day earlier all of a sudden, and later right again."""
    with tempfile.TemporaryDirectory() as folder:
        flag = Path(folder) / "back"
        with running("--max-queue-delay-ms", "5", patch=_SET_BACK.format(flag=str(flag))) as service:
            async with _traffic(service, timeout_ms=5000) as traffic:
                for change in (lambda: None, flag.touch, flag.unlink):
                    change()
                    await asyncio.sleep(seconds / 3)
            days = {json.loads(line)["time"][:10] for line in service.log.read_text().splitlines()}
            counted = service.counted()
            slowest = max(ended.at - ended.began for ended in traffic.ended)
            return {
                **_ended(traffic, counted),
                "recovery_seconds": [],
                "slowest_seconds": slowest,
                "checks": {
                    "ended as counted": counted == traffic.outcomes,
                    "all were answered": set(traffic.outcomes) == {"200"},
                    "the service saw the change": len(days) >= 2,
                    "ready": service.is_ready(),
                    "nothing is left": _nothing_left(service),
                },
            }


async def stopped_process(seconds: float) -> Findings:
    """SIGSTOP under load, and SIGCONT once every deadline has passed; the watchdog knows that no call has hung."""
    timeout_ms = int(seconds * 500)
    limit = ("--model-call-timeout-ms", str(timeout_ms))
    with running(*limit) as service:
        # Few enough that a slow machine, too, refuses nobody who is not taken for slower than it is.
        async with _traffic(service, clients=3, timeout_ms=timeout_ms, pause=0) as traffic:
            await asyncio.sleep(1.5)  # long enough to know how much the service can do
            stopped = time.monotonic()
            service.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)
            service.process.send_signal(signal.SIGCONT)
            going = time.monotonic()
            recovery = await _later(lambda: any(ended.outcome == "200" for ended in traffic.since(going)))
            await asyncio.sleep(1.5)
        counted = service.counted()
        caught = [ended.outcome for ended in traffic.ended if ended.began < stopped < going <= ended.at]
        return {
            **_ended(traffic, counted),
            "in_flight_when_stopped": {outcome: caught.count(outcome) for outcome in sorted(set(caught))},
            "recovery_seconds": [recovery],
            "checks": {
                "ended as counted": counted == traffic.outcomes,
                "in flight: 504, or an answer that was on its way": set(caught) <= {"200", "504"},
                "afterwards nobody is refused": {ended.outcome for ended in traffic.since(going)} == {"200"},
                "ready": service.is_ready(),
                "nothing is left": _nothing_left(service),
            },
        }


async def leaving_clients(clients: int) -> Findings:
    """So many clients at once that leave: every second while it sends its picture, the others while they wait."""
    with running() as service:
        async with _traffic(service, clients=2) as traffic:
            await asyncio.sleep(0.5)
            before = service.files()
            ids = itertools.count()
            began = time.monotonic()
            await asyncio.gather(*(_leave(service.port, next(ids)) for _ in range(clients)))
            stormed = time.monotonic()
            recovery = await _later(lambda: sum(service.counted().values()) >= clients and _nothing_left(service, 2))
            await asyncio.sleep(0.5)
        wait_until(lambda: service.files() <= before)
        counted, stayed = service.counted(), traffic.outcomes
        left = {code: count - stayed.get(code, 0) for code, count in counted.items() if count != stayed.get(code)}
        return {
            **_ended(traffic, counted),
            "storm_seconds": stormed - began,
            "left": left,
            "recovery_seconds": [recovery],
            "checks": {
                "everybody is counted once": sum(left.values()) == clients and min(left.values()) > 0,
                "those who stayed were answered or refused": set(stayed) <= {"200", "429"},
                "all is well afterwards": {ended.outcome for ended in traffic.since(stormed + recovery)} == {"200"},
                "ready": service.is_ready(),
                "nothing is left": _nothing_left(service),
            },
        }


async def hanging_model(seconds: float) -> Findings:
    """A model call that never returns, in one of two workers."""
    with tempfile.TemporaryDirectory() as folder:
        write_fragile_bundle(Path(folder))
        options = ("--workers", "2", "--model-call-timeout-ms", str(int(seconds * 1000)), "--repository", folder)
        with running(*options) as service:
            wait_until(lambda: service.lines('"message":"ready"') == 2)
            before = set(service.workers())
            async with _traffic(service, bodies=[picture(red) for red in range(100)], timeout_ms=500) as traffic:
                await asyncio.sleep(0.5)
                hung = await ask(service.port, picture(HANGS), timeout_ms=500, path=PATH)
                recovery = await _later(lambda: service.lines('"message":"ready"') == 3)
                recovered = time.monotonic()
                await asyncio.sleep(1)
            after = set(service.workers())
            return {
                **_ended(traffic, service.counted()),
                "hung": hung,
                "recovery_seconds": [recovery],
                "checks": {
                    "who asked is told": hung == "504",
                    "each request ended": not {SILENT, FOREIGN} & set(traffic.outcomes),
                    "all is well afterwards": {ended.outcome for ended in traffic.since(recovered)} == {"200"},
                    "one worker was replaced": len(after) == 2 and len(after - before) == 1,
                    "the log says why": service.lines("hung; replacing it") == 1,
                    "nothing is left": _nothing_left(service),
                },
            }


def _traffic(
    service: Service,
    *,
    bodies: list[bytes] = PICTURES,
    clients: int = 8,
    timeout_ms: int = 10_000,
    path: str = PATH,
    pause: float = 0.01,
) -> Traffic:
    return Traffic(service.port, bodies, clients=clients, timeout_ms=timeout_ms, path=path, pause=pause)


async def _later(condition: Callable[[], object]) -> float:
    """`wait_until`, while the traffic goes on."""
    return await asyncio.to_thread(wait_until, condition)


async def _leave(port: int, number: int) -> None:
    """Send half a picture or a whole one, and be gone."""
    body = PICTURES[number % len(PICTURES)]
    sent = len(body) // 2 if number % 2 else len(body)
    _, writer = await asyncio.open_connection(HOST, port)
    writer.write(head(PATH, len(body), timeout_ms=10_000, request_id=f"leaves-{number}") + body[:sent])
    await writer.drain()
    writer.close()


def _ended(traffic: Traffic, counted: dict[str, int]) -> Findings:
    return {"sent": len(traffic.ended), "ended": traffic.outcomes, "counted": dict(sorted(counted.items()))}


def _nothing_left(service: Service, others: int = 0) -> bool:
    """Whether soon nothing waits and only this question is in flight, and what `others` have."""
    end = time.monotonic() + 3 * REFRESH  # workers report no more often
    while time.monotonic() < end:
        waiting, inflight = service.metric("aaserve_queue_depth"), service.metric("aaserve_inflight_requests")
        if waiting <= others and inflight <= 1 + others:
            return True
        time.sleep(0.05)
    return False


def _limit(service: Service, kind: int, soft: int) -> None:
    resource.prlimit(service.process.pid, kind, (soft, resource.RLIM_INFINITY))


def _content(pipe: int) -> bytes:
    try:
        return os.read(pipe, 2**20)
    except BlockingIOError:
        return b""


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
