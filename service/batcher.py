"""Greedy dynamic batching: many callers, one model.

    submit(rows) --> queue --> whatever waits when the model is free --> run_batch --> one answer per caller

Knows nothing of HTTP or ONNX Runtime. `run_batch` is any blocking function that maps (batch, ...) to (batch, ...); it
runs in a thread of its own, one batch at a time. While it runs, the next batch is prepared as soon as it is full, so
that a busy model never waits for Python; one that could still grow is not (docs/decisions/0009). A batch that fails is
run again caller by caller, so that only the culprit fails. Nothing polls: an idle batcher awaits an event.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import numpy as np

from service.entry import Answer, Array, Entry, Part, fail
from service.errors import DeadlineExceeded, Draining, ModelLost, QueueFull, TooManyRows
from service.row_queue import RowQueue
from service.threads import INFERENCE, give_way

Result = TypeVar("Result")
_AT_THE_MODEL = 2  # batches: one computing, one prepared


class BatchTracing(Protocol):
    """Records batches, and whose rows are in them."""

    def caller(self) -> object:
        """Whoever submits now."""

    def batch(self, callers: Sequence[object], rows: int) -> AbstractContextManager[None]:
        """Entered around a model call, in the model's thread."""


class _Handed(NamedTuple):
    """What the model's thread has been given and not answered yet."""

    rows: int
    fail: Callable[[Exception], None]  # tells whoever waits for it


class DynamicBatcher:
    """Groups concurrent `submit` calls into batches. All limits count rows.

    Args:
        max_batch_size: rows in one call of `run_batch`, at most.
        max_queue_delay: seconds a batch waits for company once the model is free, counted from its first entry.
        max_queue_size: rows waiting, at most; beyond that `submit` refuses.
        recover: called in the model's thread once every caller of a batch has failed alone too; what it raises ends
            the batcher.
        on_answered: called in the event loop with the number of rows a batch has answered.
        tracing: records batches; without it, nothing does.
        clock: the event loop's clock, in seconds, at its full resolution.
    """

    def __init__(
        self,
        run_batch: Callable[[Array], Array],
        *,
        max_batch_size: int,
        max_queue_delay: float,
        max_queue_size: int,
        recover: Callable[[], None] = lambda: None,
        on_answered: Callable[[int], None] = lambda rows: None,
        tracing: BatchTracing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run_batch = run_batch
        self._max_batch_size = max_batch_size
        self._max_queue_delay = max_queue_delay
        self.max_queue_size = max_queue_size
        self._recover = recover
        self._on_answered = on_answered
        self._tracing = tracing
        self._clock = clock
        self._queue = RowQueue()
        self._handed: dict[asyncio.Task[None], _Handed] = {}  # the first batch computes, the second is prepared
        self._changed = asyncio.Event()
        self._lost: BaseException | None = None
        self._abandoned = False
        self._accepting = False

    async def __aenter__(self) -> Self:
        self._thread = ThreadPoolExecutor(
            1, thread_name_prefix="inference", initializer=give_way, initargs=(INFERENCE,)
        )
        self._task = asyncio.create_task(self._run(), name="dynamic-batcher")
        self._accepting = True
        return self

    async def __aexit__(self, *_: object) -> None:
        """Refuse new work, answer what is queued (each entry has its deadline, so this ends), stop."""
        self._accepting = False
        self._changed.set()
        await asyncio.wait([self._task])
        self._task.exception()  # seen; who wants to know awaits `ended`
        self._thread.shutdown(wait=not self._abandoned)

    def abandon(self, cause: ModelLost) -> None:
        """Give up the model, whose call does not come back: whoever waits gets InferenceFailed, `ended` the cause."""
        self._abandoned = True
        self._lost = cause
        for task, handed in self._handed.items():
            handed.fail(cause)
            task.cancel()
        self._changed.set()

    @property
    def alive(self) -> bool:
        """Whether anybody answers what is queued."""
        return not self._task.done()

    @property
    def computing(self) -> int:
        """Rows in the running batch."""
        return next((handed.rows for handed in self._handed.values()), 0)

    @property
    def queue_depth(self) -> int:
        """Rows waiting, those in the running batch not counted."""
        return self._queue.rows + sum(handed.rows for handed in self._handed.values()) - self.computing

    async def ended(self) -> None:
        """Return when the batcher has ended, or raise what ended it."""
        await asyncio.shield(self._task)

    async def submit(self, rows: Array, *, deadline: float) -> Answer:
        """Return the model's answer to (N, ...) rows; `deadline` is an instant of the event loop's clock.

        Raises:
            Draining, QueueFull: refused at once, all rows of it; the caller may retry elsewhere.
            TooManyRows: more than may ever wait.
            DeadlineExceeded: no answer in time.
            InferenceFailed: the model failed on these rows, also without company.
        """
        if not self._accepting or not self.alive:
            raise Draining
        if len(rows) > self.max_queue_size:
            raise TooManyRows(f"more than {self.max_queue_size} rows")
        if self.queue_depth + len(rows) > self.max_queue_size:
            raise QueueFull
        now = self._clock()
        if now >= deadline:
            raise DeadlineExceeded
        caller = self._tracing.caller() if self._tracing else None
        entry = Entry(rows, now, deadline, asyncio.get_running_loop().create_future(), caller)
        self._queue.add(entry)
        self._changed.set()
        try:
            async with asyncio.timeout_at(deadline):
                return await entry.answer
        except TimeoutError:
            raise DeadlineExceeded from None
        finally:
            entry.close()
            self._queue.drop(entry)

    async def call(self, function: Callable[[], Result], *, deadline: float) -> Result:
        """Return `function()`, run in the model's thread between two batches; it counts as a batch of one row.

        Raises:
            Draining, DeadlineExceeded: as `submit`.
            InferenceFailed: it raised; the model is looked after as when a batch fails.
        """
        if not self._accepting or not self.alive:
            raise Draining
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._hand(self._call(function, answer), 1, partial(fail, answer))
        try:
            async with asyncio.timeout_at(deadline):
                return await answer
        except TimeoutError:
            raise DeadlineExceeded from None
        finally:
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # seen, even where the caller left in the moment it was set

    async def _run(self) -> None:
        try:
            while await self._wait_for_batch():
                if parts := self._queue.take(self._max_batch_size, self._clock()):
                    self._hand(self._answer(parts), sum(map(len, parts)), partial(_fail_all, parts))
        finally:
            for entry in self._queue:  # none, unless the model is lost
                self._queue.drop(entry)
                entry.fail(self._lost or RuntimeError("the batcher ended"))
            if self._handed:
                await asyncio.wait(list(self._handed))
        if self._lost:  # while it was draining
            raise self._lost

    def _hand(self, work: Coroutine[Any, Any, None], rows: int, fail: Callable[[Exception], None]) -> None:
        task = asyncio.create_task(work)
        self._handed[task] = _Handed(rows, fail)
        task.add_done_callback(self._batch_ended)

    async def _wait_for_batch(self) -> bool:
        """Wait until a batch can go; False once draining is over."""
        while not self._can_go():
            if self._lost:
                raise self._lost
            if not self._accepting and not self._queue:
                return False
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._company_until()):
                    await self._changed.wait()
        return True

    def _can_go(self) -> bool:
        if self._lost or not self._queue:
            return False
        if self._queue.rows >= self._max_batch_size:
            return len(self._handed) < _AT_THE_MODEL
        if self._handed:
            return False  # it may still grow
        until = self._company_until()
        return until is None or self._clock() >= until

    def _company_until(self) -> float | None:
        """The instant at which a batch that is not full goes nevertheless, if it waits for company at all."""
        if not self._max_queue_delay or not self._accepting or not self._queue or self._handed:
            return None
        return self._queue.oldest.enqueued + self._max_queue_delay

    async def _answer(self, parts: list[Part]) -> None:
        try:
            answered = await self._compute(parts)
        except Exception as error:
            answered = await self._answer_one_by_one(parts, error)
        self._on_answered(answered)

    async def _answer_one_by_one(self, parts: list[Part], error: Exception) -> int:
        """Run a batch that failed again, caller by caller; return the rows answered."""
        answered, failed = 0, False
        for part in parts:
            try:
                if len(parts) == 1:
                    raise error  # it has been alone already
                answered += await self._compute([part])
            except Exception as cause:
                failed = True
                part.entry.fail(cause)
                self._queue.drop(part.entry)
        if failed and not answered:
            await self._look_after_the_model()
        return answered

    async def _call(self, function: Callable[[], Result], answer: asyncio.Future[Result]) -> None:
        def unless_nobody_waits() -> Result | None:
            return None if answer.done() else function()

        try:
            result = await asyncio.get_running_loop().run_in_executor(self._thread, unless_nobody_waits)
        except Exception as error:
            fail(answer, error)
            await self._look_after_the_model()
            return
        self._on_answered(1)
        if not answer.done():
            answer.set_result(result)  # type: ignore[arg-type]  # None only where nobody waits

    async def _look_after_the_model(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._recover)

    async def _compute(self, parts: list[Part]) -> int:
        """Give the model those parts that are still wanted; return their rows."""
        batch = _stacked(parts)
        loop = asyncio.get_running_loop()
        wanted, outputs, started = await loop.run_in_executor(self._thread, self._run_wanted, parts, batch)
        batch_size = len(outputs)
        for part in wanted:
            rows, outputs = np.split(outputs, [len(part)])
            part.settle(rows, batch_size=batch_size, started=started, now=self._clock())
        return batch_size

    def _run_wanted(self, parts: list[Part], batch: Array) -> tuple[list[Part], Array, float]:
        """In the model's thread: callers may have left since the batch was made."""
        started = self._clock()
        wanted = [part for part in parts if part.entry.wanted(started)]
        if not wanted:
            return [], batch[:0], started
        if len(wanted) < len(parts):
            batch = _stacked(wanted)
        if self._tracing:
            with self._tracing.batch([part.entry.caller for part in wanted], len(batch)):
                outputs = self._run_batch(batch)
        else:
            outputs = self._run_batch(batch)
        if len(outputs) != len(batch):
            raise RuntimeError(f"expected {len(batch)} rows from the model, found {len(outputs)}")
        return wanted, outputs, started

    def _batch_ended(self, task: asyncio.Task[None]) -> None:
        del self._handed[task]
        if not task.cancelled():
            self._lost = self._lost or task.exception()
        self._changed.set()


def _fail_all(parts: list[Part], cause: Exception) -> None:
    for part in parts:
        part.entry.fail(cause)


def _stacked(parts: list[Part]) -> Array:
    return parts[0].rows if len(parts) == 1 else np.concatenate([part.rows for part in parts])
