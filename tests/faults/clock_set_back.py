"""The wall clock is a day earlier all of a sudden, and later right again."""

import asyncio
import json
import tempfile
import time
from pathlib import Path

from tests.faults.findings import Findings, nothing_left, tally
from tests.faults.running import later, running
from tests.faults.traffic import Traffic

_SET_BACK = """
import time
from pathlib import Path

flag, true_time, true_time_ns = Path({flag!r}), time.time, time.time_ns
time.time = lambda: true_time() - 86_400 * flag.exists()
time.time_ns = lambda: true_time_ns() - 86_400_000_000_000 * flag.exists()
"""


async def clock_set_back(seconds: float) -> Findings:
    with tempfile.TemporaryDirectory() as folder:
        flag = Path(folder) / "back"
        with running("--max-queue-delay-ms", "5", patch=_SET_BACK.format(flag=str(flag))) as service:
            async with Traffic(service, timeout_ms=5000) as traffic:
                for change in (lambda: None, flag.touch, flag.unlink):
                    change()
                    changed = time.monotonic()
                    await asyncio.sleep(seconds / 3)
                    await later(lambda: traffic.since(changed))  # noqa: B023 (awaited here)
            days = {json.loads(line)["time"][:10] for line in service.log.read_text().splitlines()}
            counted = service.counted()
            slowest = max(ended.at - ended.began for ended in traffic.ended)
            return {
                **tally(traffic, counted),
                "recovery_seconds": [],
                "slowest_seconds": slowest,
                "checks": {
                    "ended as counted": counted == traffic.outcomes,
                    "all were answered": set(traffic.outcomes) == {"200"},
                    "the service saw the change": len(days) >= 2,
                    "ready": service.is_ready(),
                    "nothing is left": nothing_left(service),
                },
            }
