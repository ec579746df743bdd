"""One of two workers, now and then both, killed by SIGKILL again and again under load."""

import asyncio
import os
import random
import signal
import time

from tests.faults.findings import Findings, nothing_left, tally
from tests.faults.running import later, running, wait_until
from tests.faults.traffic import Traffic


async def killed_workers(seconds: float) -> Findings:
    chance = random.Random(0)
    with running("--workers", "2") as service:
        wait_until(lambda: service.lines('"message":"ready"') == 2)
        kills, recoveries = 0, []
        end = time.monotonic() + seconds
        async with Traffic(service) as traffic:
            while time.monotonic() < end:
                await asyncio.sleep(chance.uniform(0.2, 1.5))
                victims = chance.sample(service.workers(), 2 if len(recoveries) % 4 == 3 else 1)
                for victim in victims:
                    os.kill(victim, signal.SIGKILL)
                kills += len(victims)
                expected = 2 + kills
                recoveries.append(await later(lambda: service.lines('"message":"ready"') == expected))  # noqa: B023
        answered, counted = traffic.outcomes.get("200", 0), service.counted()
        return {
            **tally(traffic, counted),
            "kills": kills,
            "recovery_seconds": recoveries,
            "checks": {
                "each request was answered or its connection broke": set(traffic.outcomes) <= {"200", "broken"},
                "broken are at most those that a killed worker had": traffic.outcomes.get("broken", 0) <= kills * 8,
                # A worker can die between the answer and the count.
                "counters survive": answered - kills * 8 <= counted.get("200", 0) <= answered,
                "both workers are shown": service.metric("aaserve_queue_capacity") == 256,
                "nothing is left": nothing_left(service),
            },
        }
