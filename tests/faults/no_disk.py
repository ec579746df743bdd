"""The log file cannot grow, in the middle of a line; later it can again."""

import asyncio
import json
import resource

from tests.faults.findings import Findings, tally
from tests.faults.running import later, running
from tests.faults.traffic import ENOUGH, Traffic


async def no_disk_for_logs(seconds: float) -> Findings:
    with running() as service:
        async with Traffic(service) as traffic:
            await later(lambda: len(traffic.ended) >= ENOUGH)
            service.limit(resource.RLIMIT_FSIZE, service.log.stat().st_size + 1000)
            await asyncio.sleep(seconds)
            await later(lambda: service.metric("aaserve_log_lines_dropped_total"))
            dropped, ready = service.metric("aaserve_log_lines_dropped_total"), service.is_ready()
            service.limit(resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)
            recovery = await later(lambda: service.lines("log lines were dropped before this one"))
        counted = service.counted()
        lines = service.log.read_text().splitlines()
        return {
            **tally(traffic, counted),
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


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
