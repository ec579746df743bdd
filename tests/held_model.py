"""A function instead of a model, with a batcher around it, and events that show their progress."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np

from aaserve.service.engine.batch import RunBatch
from aaserve.service.engine.batcher import DynamicBatcher
from aaserve.service.engine.inference_threads import InferenceThreads
from aaserve.service.engine.queueing.client_usage import ClientUsage

ROW = np.ones((1, 3), np.float32)


class Model:
    """Doubles its input; can be held and can be made to fail, and remembers its batches."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[int] = []
        self.started = threading.Event()
        self.go = threading.Event()
        self.failure: Exception | None = None
        if not held:
            self.go.set()

    def __call__(
        self, batch: np.ndarray, names: tuple[str, ...] = (), all_cores: bool = False
    ) -> dict[str, np.ndarray]:
        self.batches.append(len(batch))
        self.started.set()
        assert self.go.wait(60)
        if self.failure:
            raise self.failure
        return {"doubled": batch * 2}


def batching(
    model: RunBatch,
    *,
    size: int = 4,
    delay: float = 0,
    queue: int = 16,
    recover: Callable[[], None] = lambda: None,
    lanes: InferenceThreads | None = None,
    few_rows: float = 0,
    usage: ClientUsage | None = None,
    on_lost: Callable[[Exception], None] = lambda cause: None,
) -> DynamicBatcher:
    return DynamicBatcher(
        model,
        few_rows=few_rows,
        lanes=lanes or InferenceThreads(1),
        max_batch_size=size,
        max_queue_delay=delay,
        max_queue_size=queue,
        recover=recover,
        usage=usage or ClientUsage(),
        on_lost=on_lost,
        clock=asyncio.get_running_loop().time,
    )


def soon(seconds: float = 10) -> float:
    return asyncio.get_running_loop().time() + seconds


async def started(model: Model) -> None:
    assert await asyncio.to_thread(model.started.wait, 60)


async def waiting(batcher: DynamicBatcher, rows: int) -> None:
    async with asyncio.timeout(60):
        while batcher.queue_depth != rows:
            await asyncio.sleep(0)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)
