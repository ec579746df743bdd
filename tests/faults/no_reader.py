"""stderr is a pipe that is not read; in the end it is read."""

import asyncio
import os

from tests.faults.findings import Findings, tally
from tests.faults.running import later, running
from tests.faults.traffic import Traffic


async def nobody_reads_the_log(seconds: float) -> Findings:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    try:
        with running(stderr=writing) as service:
            async with Traffic(service, bodies=[b"no picture"], pause=0) as traffic:
                await asyncio.sleep(seconds)
                await later(lambda: len(traffic.ended) * 200 > 2**16)  # more than fits into a pipe
                ready = service.is_ready()
            read = bytearray()
            recovery = await later(lambda: read.extend(_content(reading)) or b"POST" in read)
            counted = service.counted()
            return {
                **tally(traffic, counted),
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


def _content(pipe: int) -> bytes:
    try:
        return os.read(pipe, 2**20)
    except BlockingIOError:
        return b""
