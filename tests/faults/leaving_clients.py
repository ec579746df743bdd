"""Many clients at once that disconnect: every second one while sending its picture, the others while waiting."""

import asyncio
import itertools
import time

from tests.faults.findings import Findings, nothing_left, tally
from tests.faults.running import HOST, later, running, wait_until
from tests.faults.traffic import ENOUGH, PATH, PICTURES, Traffic, head


async def leaving_clients(clients: int) -> Findings:
    with running() as service:
        async with Traffic(service, clients=2) as traffic:
            await later(lambda: len(traffic.ended) >= ENOUGH)
            before = service.files()
            ids = itertools.count()
            began = time.monotonic()
            await asyncio.gather(*(_leave(service.port, next(ids)) for _ in range(clients)))
            stormed = time.monotonic()
            recovery = await later(lambda: sum(service.counted().values()) >= clients and nothing_left(service, 2))
            recovered = time.monotonic()
            await later(lambda: len(traffic.since(recovered)) >= ENOUGH)
        wait_until(lambda: service.files() <= before)
        counted, stayed = service.counted(), traffic.outcomes
        left = {code: count - stayed.get(code, 0) for code, count in counted.items() if count != stayed.get(code)}
        return {
            **tally(traffic, counted),
            "storm_seconds": stormed - began,
            "left": left,
            "recovery_seconds": [recovery],
            "checks": {
                "everybody is counted once": sum(left.values()) == clients and min(left.values()) > 0,
                "those who stayed were answered or refused": set(stayed) <= {"200", "429"},
                "all is well afterwards": {ended.outcome for ended in traffic.since(recovered)} == {"200"},
                "ready": service.is_ready(),
                "nothing is left": nothing_left(service),
            },
        }


async def _leave(port: int, number: int) -> None:
    """Send half a picture or a whole one, and be gone."""
    body = PICTURES[number % len(PICTURES)]
    sent = len(body) // 2 if number % 2 else len(body)
    _, writer = await asyncio.open_connection(HOST, port)
    writer.write(head(PATH, len(body), timeout_ms=10_000, request_id=f"leaves-{number}") + body[:sent])
    await writer.drain()
    writer.close()
