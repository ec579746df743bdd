"""Greedy dynamic batching: many callers, one model.

    submit(row) --> queue --> whatever waits when the model is free --> run_batch --> one answer per caller

Knows nothing of HTTP or ONNX Runtime. `run_batch` is any blocking function that maps (batch, ...) to (batch, ...); it
runs in a thread of its own, one batch at a time. A done `answer` means that nobody waits any more: deadline, disconnect
and cancellation are one case.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from service.errors import DeadlineExceeded, Draining, InferenceFailed, QueueFull

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """The model's output for one row, and where its time went, in seconds."""

    row: Array
    queue_seconds: float
    inference_seconds: float


@dataclass(slots=True, eq=False)
class Entry:
    """One caller's place in the queue."""

    row: Array
    enqueued: float  # of perf_counter: the event loop's own clock may tick in whole milliseconds
    answer: asyncio.Future[Answer]


class DynamicBatcher:
    """Groups concurrent `submit` calls into batches.

    Args:
        max_batch_size: rows in one call of `run_batch`, at most.
        max_queue_delay: seconds a batch waits for company once the model is free, counted from its first entry.
        max_queue_size: entries waiting, at most; beyond that `submit` refuses.
    """

    def __init__(
        self,
        run_batch: Callable[[Array], Array],
        *,
        max_batch_size: int,
        max_queue_delay: float,
        max_queue_size: int,
    ) -> None:
        self._run_batch = run_batch
        self._max_batch_size = max_batch_size
        self._max_queue_delay = max_queue_delay
        self._max_queue_size = max_queue_size
        self._queue: dict[Entry, None] = {}  # ordered, and an entry whose caller left goes at once
        self._arrived = asyncio.Event()
        self._accepting = False

    async def __aenter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._task = asyncio.create_task(self._run(), name="dynamic-batcher")
        self._accepting = True
        return self

    async def __aexit__(self, *_: object) -> None:
        """Refuse new work, answer what is queued (each entry has its deadline, so this ends), stop."""
        self._accepting = False
        self._arrived.set()
        await self._task
        self._thread.shutdown()

    @property
    def alive(self) -> bool:
        """Whether anybody answers what is queued."""
        return not self._task.done()

    @property
    def queue_depth(self) -> int:
        """Rows waiting, those in the running batch not counted."""
        return len(self._queue)

    async def submit(self, row: Array, *, deadline: float) -> Answer:
        """Return the model's answer to one row; `deadline` is an instant of the event loop's clock.

        Raises:
            Draining, QueueFull: refused at once; the caller may retry elsewhere.
            DeadlineExceeded: no answer in time.
            InferenceFailed: `run_batch` raised; every entry of that batch gets this.
        """
        if not self._accepting or not self.alive:
            raise Draining
        if len(self._queue) >= self._max_queue_size:
            raise QueueFull
        entry = Entry(row, perf_counter(), asyncio.get_running_loop().create_future())
        self._queue[entry] = None
        self._arrived.set()
        try:
            async with asyncio.timeout_at(deadline):
                return await entry.answer
        except TimeoutError:
            raise DeadlineExceeded from None
        finally:
            self._queue.pop(entry, None)

    async def _run(self) -> None:
        while await self._wait_for_entries():
            batch = [entry for entry in list(self._queue)[: self._max_batch_size] if not entry.answer.done()]
            for entry in batch:
                del self._queue[entry]
            if batch:
                await self._answer(batch)

    async def _wait_for_entries(self) -> bool:
        """Wait until a batch can go; False once draining is over."""
        while not self._queue:
            if not self._accepting:
                return False
            self._arrived.clear()
            await self._arrived.wait()
        if self._max_queue_delay:
            await self._wait_for_company(next(iter(self._queue)))
        return True

    async def _wait_for_company(self, first: Entry) -> None:
        try:
            async with asyncio.timeout(self._max_queue_delay - (perf_counter() - first.enqueued)):
                while self._accepting and len(self._queue) < self._max_batch_size:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            pass

    async def _answer(self, entries: list[Entry]) -> None:
        loop = asyncio.get_running_loop()
        started = perf_counter()
        try:
            batch = np.stack([entry.row for entry in entries])
            rows = await loop.run_in_executor(self._thread, self._run_batch, batch)
            seconds = perf_counter() - started
            pairs = list(zip(entries, rows, strict=True))
        except Exception as error:
            for entry in entries:
                if not entry.answer.done():
                    entry.answer.set_exception(_failure(error))
        else:
            for entry, row in pairs:
                if not entry.answer.done():  # the caller may have left during inference
                    entry.answer.set_result(Answer(row, started - entry.enqueued, seconds))


def _failure(cause: Exception) -> InferenceFailed:
    failure = InferenceFailed()
    failure.__cause__ = cause
    return failure
