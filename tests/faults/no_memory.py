"""A model that does not fit into memory is added next to a served one."""

import asyncio
import resource
import signal
import tempfile
from pathlib import Path

from tests.faults.findings import Findings, nothing_left, tally
from tests.faults.running import later, running
from tests.faults.traffic import PATH, Traffic
from tests.toy_bundles import picture, write_fragile_bundle

MIB = 2**20


async def no_memory_for_a_second_model(seconds: float) -> Findings:
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        write_fragile_bundle(repository, name="first")
        with running("--repository", folder) as service:
            write_fragile_bundle(repository, name="large", ballast_bytes=100 * MIB)
            path = f"{PATH}&model=first"
            async with Traffic(service, bodies=[picture(red) for red in range(100)], path=path) as traffic:
                await asyncio.sleep(seconds / 2)
                service.limit(resource.RLIMIT_DATA, service.memory("VmData") + 64 * MIB)
                service.process.send_signal(signal.SIGHUP)
                refused = await later(lambda: service.metric("aaserve_reloads_total", model="large", outcome="failed"))
                ready, shown = service.is_ready(), service.get("/models/large").json()
                await asyncio.sleep(seconds / 2)
                service.limit(resource.RLIMIT_DATA, resource.RLIM_INFINITY)
                service.process.send_signal(signal.SIGHUP)
                recovery = await later(lambda: service.metric("aaserve_model_ready", model="large"))
            return {
                **tally(traffic, counted := service.counted()),
                "said": shown["failures"],
                "refused_after_seconds": refused,
                "recovery_seconds": [recovery],
                "checks": {
                    "ended as counted": counted == traffic.outcomes,
                    "the first model never stopped": set(traffic.outcomes) == {"200"},
                    "ready meanwhile": ready,
                    "the second says why in one line": len(shown["failures"]) == 1
                    and "\n" not in shown["failures"][0]["reason"],
                    "nothing is left": nothing_left(service),
                },
            }
