"""Decoding happens in few threads."""

import asyncio
import threading

import pytest

from aaserve.service.engine.cpu_pool import CpuPool
from aaserve.service.engine.queueing.client_usage import ClientUsage
from aaserve.service.errors import DeadlineExceeded


def soon(seconds: float = 10) -> float:
    return asyncio.get_running_loop().time() + seconds


def test_a_call_whose_deadline_passes_before_it_begins_never_runs() -> None:
    async def scenario() -> None:
        go, ran = threading.Event(), threading.Event()
        pool = CpuPool(1, ClientUsage())
        busy = asyncio.create_task(pool.run(go.wait, deadline=soon()))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded):
            await pool.run(ran.set, deadline=soon(0.01))
        go.set()
        await busy
        await pool.run(lambda: None, deadline=soon())
        assert not ran.is_set()
        pool.close()

    asyncio.run(scenario())


def test_errors_of_the_function_reach_the_caller() -> None:
    async def scenario() -> None:
        pool = CpuPool(1, ClientUsage())
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda: 1 / 0, deadline=soon())  # type: ignore[arg-type, return-value]
        pool.close()

    asyncio.run(scenario())
