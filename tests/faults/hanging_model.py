"""A model call that never returns, in one of two workers."""

import tempfile
import time
from pathlib import Path

from tests.faults.findings import Findings, nothing_left, tally
from tests.faults.running import later, running, wait_until
from tests.faults.traffic import ENOUGH, FOREIGN, PATH, SILENT, Traffic, ask
from tests.toy_bundles import HANGS, picture, write_fragile_bundle


async def hanging_model(seconds: float) -> Findings:
    with tempfile.TemporaryDirectory() as folder:
        write_fragile_bundle(Path(folder))
        options = ("--workers", "2", "--model-call-timeout-ms", str(int(seconds * 1000)), "--repository", folder)
        with running(*options) as service:
            wait_until(lambda: service.lines('"message":"ready"') == 2)
            before = set(service.workers())
            async with Traffic(service, bodies=[picture(red) for red in range(100)]) as traffic:
                await later(lambda: len(traffic.ended) >= ENOUGH)
                hung = await ask(service.port, picture(HANGS, side=100), timeout_ms=500, path=PATH)
                recovery = await later(lambda: service.lines('"message":"ready"') == 3)
                recovered = time.monotonic()
                await later(lambda: len(traffic.since(recovered)) >= ENOUGH)
            after = set(service.workers())
            return {
                **tally(traffic, service.counted()),
                "hung": hung,
                "recovery_seconds": [recovery],
                "checks": {
                    "who asked is told": hung == "504",
                    "each request ended": not {SILENT, FOREIGN} & set(traffic.outcomes),
                    "all is well afterwards": {ended.outcome for ended in traffic.since(recovered)} == {"200"},
                    "one worker was replaced": len(after) == 2 and len(after - before) == 1,
                    "the log says why": service.lines("hung; replacing it") == 1,
                    "nothing is left": nothing_left(service),
                },
            }
