"""SIGSTOP under load, and SIGCONT once every deadline has passed; the watchdog knows that no call has hung."""

import asyncio
import signal
import time

from tests.faults.findings import Findings, nothing_left, tally
from tests.faults.running import later, running
from tests.faults.traffic import ENOUGH, Traffic


async def stopped_process(seconds: float) -> Findings:
    timeout_ms = int(seconds * 500)
    limit = ("--model-call-timeout-ms", str(timeout_ms))
    with running(*limit) as service:
        # Few enough that a slow machine, too, refuses nobody who is not taken for slower than it is.
        async with Traffic(service, clients=3, timeout_ms=timeout_ms, pause=0) as traffic:
            await later(lambda: len(traffic.ended) >= ENOUGH)  # the service knows how much it can do
            stopped = time.monotonic()
            service.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)
            service.process.send_signal(signal.SIGCONT)
            going = time.monotonic()
            recovery = await later(lambda: any(ended.outcome == "200" for ended in traffic.since(going)))
            recovered = time.monotonic()
            await later(lambda: len(traffic.since(recovered)) >= ENOUGH)
        counted = service.counted()
        caught = [ended.outcome for ended in traffic.ended if ended.began < stopped < going <= ended.at]
        return {
            **tally(traffic, counted),
            "in_flight_when_stopped": {outcome: caught.count(outcome) for outcome in sorted(set(caught))},
            "recovery_seconds": [recovery],
            "checks": {
                "ended as counted": counted == traffic.outcomes,
                "in flight: 504, or an answer that was on its way": set(caught) <= {"200", "504"},
                "afterwards nobody is refused": {ended.outcome for ended in traffic.since(going)} == {"200"},
                "ready": service.is_ready(),
                "nothing is left": nothing_left(service),
            },
        }
