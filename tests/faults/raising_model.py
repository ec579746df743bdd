"""A model that raises at every third call."""

import asyncio
import tempfile
import time
from pathlib import Path

from tests.faults.findings import Findings, nothing_left, tally
from tests.faults.running import later, running
from tests.faults.traffic import ENOUGH, Traffic

_EVERY_THIRD = """
import weakref
from pathlib import Path
from aaserve.service.engine.runtime.session import OnnxSession

run, calls = OnnxSession.run, weakref.WeakKeyDictionary()

def run_or_raise(self, *arguments):
    calls[self] = call = calls.get(self, 0) + 1
    if Path({flag!r}).exists() and call > 30 and call % 3 == 0:  # one that was just opened works
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")
    return run(self, *arguments)

OnnxSession.run = run_or_raise
"""


async def raising_model(seconds: float) -> Findings:
    with tempfile.TemporaryDirectory() as folder:
        flag = Path(folder) / "raise"
        with running(patch=_EVERY_THIRD.format(flag=str(flag))) as service:
            async with Traffic(service) as traffic:
                await later(lambda: len(traffic.ended) >= ENOUGH)
                flag.touch()
                await asyncio.sleep(seconds)
                await later(lambda: traffic.outcomes.get("500", 0) > 0)
                flag.unlink()
                healed = time.monotonic()
                await later(lambda: any(ended.outcome == "200" for ended in traffic.since(healed)))
                recovery = await later(service.is_ready)
                after = time.monotonic()
                await later(lambda: len(traffic.since(after)) >= ENOUGH)
            counted = service.counted()
            reopened = service.metric("aaserve_model_reopened_total")
            return {
                **tally(traffic, counted),
                "reopened": int(reopened),
                "recovery_seconds": [recovery],
                "checks": {
                    "ended as counted": counted == traffic.outcomes,
                    "200, 500 or, while it is opened again, 503": set(traffic.outcomes) <= {"200", "500", "503"},
                    "some failed": traffic.outcomes.get("500", 0) > 0,
                    "all is well afterwards": {ended.outcome for ended in traffic.since(after)} == {"200"},
                    "nothing is left": nothing_left(service),
                },
            }
