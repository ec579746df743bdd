"""Greedy dynamic batching: many callers, one model.

    submit(rows)    --> queue --> what waits, shared by the lanes that are free --> run_batch --> one answer per caller
    submit_later(decode) ^            each lane: decode --> stack --> run_batch

Knows nothing of HTTP or ONNX Runtime. `run_batch` is any blocking function that maps (batch, ...) to (batch, ...); it
runs in the lanes' threads, one batch at a time in each. While all are busy, one more batch is prepared as soon as it is
full; one that could still grow is not (docs/decisions/0009). A batch that fails is run again caller by caller, so that
only the culprit fails. All that is decided is decided in the event loop, by `_look`, when something has changed: no
locks, nothing polls, an idle batcher does nothing.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Self, TypeVar

from aaserve.service.engine.batch import BatchTracing, Computed, Failed, FewRows, Outcome, Refused, RunBatch, compute
from aaserve.service.engine.in_flight import InFlightBatch, InFlightBatches
from aaserve.service.engine.inference_threads import InferenceThreads
from aaserve.service.engine.queue import RowQueue
from aaserve.service.engine.queued_request import Array, Outputs, QueuedRequest, RowSlice, fail
from aaserve.service.errors import DeadlineExceeded, Draining, ModelLost, QueueFull, TooManyRows

Result = TypeVar("Result")


class DynamicBatcher:
    """Groups concurrent `submit` calls into batches. All limits count rows.

    Args:
        run_batch: runs the model.
        few_rows: how to answer few rows sooner, if there is such a way.
        lanes: threads to run it in, which the batcher opens and closes.
        max_batch_size: rows in one call of `run_batch`, at most.
        max_queue_delay: seconds a batch waits for company once a lane is free, counted from its first entry; without
            it, what waits is shared evenly by the free lanes.
        max_queue_size: rows waiting, at most; beyond that `submit` refuses.
        recover: called in a lane once every caller of a batch has failed alone too; nothing is begun meanwhile, and
            what it raises ends the batcher.
        on_answered: called in the event loop with the number of rows a batch has answered.
        tracing: records batches; without it, nothing does.
        clock: the event loop's clock, in seconds, at its full resolution.
    """

    def __init__(
        self,
        run_batch: RunBatch,
        *,
        few_rows: FewRows | None = None,
        lanes: InferenceThreads,
        max_batch_size: int,
        max_queue_delay: float,
        max_queue_size: int,
        recover: Callable[[], None] = lambda: None,
        on_answered: Callable[[int], None] = lambda rows: None,
        tracing: BatchTracing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run_batch = run_batch
        self._few_rows = few_rows
        self._lanes = lanes
        self._assignments = InFlightBatches(lanes, self._ended_one)
        self._max_batch_size = max_batch_size
        self._max_queue_delay = max_queue_delay
        self.max_queue_size = max_queue_size
        self._recover = recover
        self._on_answered = on_answered
        self._tracing = tracing
        self._clock = clock
        self._queue = RowQueue()
        self._recovering = False
        self._looking = False
        self._company: asyncio.TimerHandle | None = None
        self._lost: Exception | None = None
        self._abandoned = False
        self._accepting = False

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._lanes.open(self._thread_ended)
        self._accepting = True
        return self

    async def __aexit__(self, *_: object) -> None:
        """Refuse new work, answer what is queued (each entry has its deadline, so this ends), stop."""
        self._accepting = False
        self._look_soon()
        await asyncio.wait([self._ended])
        self._ended.exception()  # seen; who wants to know awaits `ended`
        self._lanes.close(wait=not self._abandoned)

    def abandon(self, cause: ModelLost) -> None:
        """Give up the model, whose call does not come back: whoever waits gets InferenceFailed, `ended` the cause."""
        self._abandoned = True
        self._lost = cause
        self._assignments.give_up(cause)
        self._look_soon()

    @property
    def alive(self) -> bool:
        """Whether anybody answers what is queued."""
        return not self._ended.done()

    @property
    def computing(self) -> int:
        """Rows in the running batches."""
        return self._assignments.computing

    @property
    def queue_depth(self) -> int:
        """Rows waiting, those in the running batches not counted."""
        return self._rows - self._assignments.computing

    @property
    def _rows(self) -> int:
        return self._queue.rows + self._assignments.rows

    async def ended(self) -> None:
        """Return when the batcher has ended, or raise what ended it."""
        await asyncio.shield(self._ended)

    async def submit(self, rows: Array, *, deadline: float) -> Outputs:
        """Return the model's answer to (N, ...) rows; `deadline` is an instant of the event loop's clock.

        Raises:
            Draining, QueueFull: refused at once, all rows of it; the caller may retry elsewhere.
            TooManyRows: more than may ever wait.
            DeadlineExceeded: no answer in time.
            InferenceFailed: the model failed on these rows, also without company.
        """
        return await self._wait(len(rows), rows, None, deadline)

    async def submit_later(self, decode: Callable[[], Array], *, deadline: float) -> Outputs:
        """As `submit`, of one row that `decode` makes in a lane, right before its batch; nobody's who has left.

        Raises:
            As `submit`, and what `decode` raises, which its batch mates do not notice.
        """
        return await self._wait(1, None, decode, deadline)

    async def call(self, function: Callable[[], Result], *, deadline: float) -> Result:
        """Return `function()`, run in a lane between two batches; it counts as a batch of one row.

        Raises:
            Draining, DeadlineExceeded: as `submit`.
            InferenceFailed: it raised; the model is looked after as when a batch fails.
        """
        if not self._accepting or not self.alive:
            raise Draining
        answer: asyncio.Future[Result] = self._loop.create_future()

        def unless_nobody_waits() -> Result | None:
            return None if answer.done() else function()

        def then(result: Result) -> None:
            self._on_answered(1)
            if not answer.done():
                answer.set_result(result)

        self._give(unless_nobody_waits, then, InFlightBatch(1, partial(fail, answer)))
        try:
            async with asyncio.timeout_at(deadline):
                return await answer
        except TimeoutError:
            raise DeadlineExceeded from None
        finally:
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # seen, even where the caller left in the moment it was set

    async def _wait(
        self, size: int, rows: Array | None, decode: Callable[[], Array] | None, deadline: float
    ) -> Outputs:
        if not self._accepting or not self.alive:
            raise Draining
        if size > self.max_queue_size:
            raise TooManyRows(f"more than {self.max_queue_size} rows")
        if self.queue_depth + size > self.max_queue_size:
            raise QueueFull
        now = self._clock()
        if now >= deadline:
            raise DeadlineExceeded
        caller = self._tracing.caller() if self._tracing else None
        entry = QueuedRequest(size, rows, now, deadline, self._loop.create_future(), caller, decode)
        self._queue.add(entry)
        self._look_soon()
        expiry = self._loop.call_at(deadline, entry.expire)
        try:
            return await entry.answer
        finally:
            expiry.cancel()
            entry.close()
            self._queue.drop(entry)

    def _look_soon(self) -> None:
        """Once everybody who arrives now is there."""
        if not self._looking:
            self._looking = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        """Hand out what can go now, and end where that is due."""
        self._looking = False
        try:
            while not self._lost and (room := self._room()):
                idle, rows = not self._assignments, self._rows
                if parts := self._queue.take(room, self._clock()):
                    self._give_batch(parts, self._few_rows if idle and self._are_few(rows) else None)
        except Exception as error:  # a bug: whoever waits must not wait for ever
            self._lost = error
        if self._lost:
            for entry in self._queue:
                self._queue.drop(entry)
                entry.fail(self._lost)
        if not self._assignments and not self._ended.done():
            if self._lost:
                self._ended.set_exception(self._lost)
            elif not self._accepting and not self._queue:
                self._ended.set_result(None)

    def _room(self) -> int:
        """Rows of the batch that can go now; 0 if none can."""
        waiting = self._queue.rows
        if not waiting or self._recovering:
            return 0
        free = self._assignments.free
        if free <= 0:  # prepared, so that no lane waits for the event loop; a batch that may still grow is not
            return self._max_batch_size if free == 0 and waiting >= self._max_batch_size else 0
        if waiting < self._max_batch_size and self._wait_for_company():
            return 0
        are_few, idle = self._are_few(self._rows), not self._assignments
        if are_few and self._assignments.any_has_all_cores:
            return 0  # it is soon done
        if self._max_queue_delay or (are_few and idle):
            return self._max_batch_size
        return min(-(-waiting // free), self._max_batch_size)

    def _are_few(self, rows: int) -> bool:
        """True if so many rows, waiting and in flight, are best given all the cores."""
        return self._few_rows is not None and rows < self._few_rows.fewer_than

    def _wait_for_company(self) -> bool:
        """Whether a batch that is not full stays; it is looked at again when that is over."""
        if self._company:
            self._company.cancel()
            self._company = None
        if not self._max_queue_delay or not self._accepting:
            return False
        until = self._queue.oldest.enqueued + self._max_queue_delay
        if self._clock() >= until:
            return False
        self._company = self._loop.call_at(until, self._look_soon)
        return True

    def _give(self, work: Callable[[], Any], then: Callable[[Any], None], assignment: InFlightBatch) -> None:
        def failed(error: Exception) -> None:
            assignment.fail(error)
            self._look_after_the_model()

        self._assignments.give(work, then, failed, assignment)

    def _thread_ended(self, error: BaseException) -> None:
        self.abandon(ModelLost(f"an inference thread ended unexpectedly: {error!r}"))

    def _ended_one(self, bug: Exception | None) -> None:
        self._lost = self._lost or bug
        self._look()

    def _give_batch(self, parts: list[RowSlice], few_rows: FewRows | None) -> None:
        run_batch = few_rows.run_batch if few_rows else self._run_batch
        work = partial(compute, parts, run_batch, tracing=self._tracing, clock=self._clock)
        rows = sum(map(len, parts))
        self._give(work, self._answer, InFlightBatch(rows, partial(_fail_all, parts), all_cores=few_rows is not None))

    def _answer(self, outcomes: list[Outcome]) -> None:
        """Tell the callers what became of their rows."""
        answered = failed = 0
        for outcome in outcomes:
            match outcome:
                case Computed(part, rows, batch_size, started, ended):
                    answered += len(part)
                    part.settle(rows, batch_size=batch_size, started=started, ended=ended)
                case Refused(part, error):
                    part.entry.refuse(error)
                case Failed(part, error):
                    failed += 1
                    part.entry.fail(error)
                    self._queue.drop(part.entry)
        if failed and not answered:
            self._look_after_the_model()
        self._on_answered(answered)

    def _look_after_the_model(self) -> None:
        """In a lane; nobody is given to a model that may be dead."""
        if self._recovering:
            return
        self._recovering = True

        def then(_: None) -> None:
            self._recovering = False

        def lost(error: Exception) -> None:
            self._lost = error

        self._give(self._recover, then, InFlightBatch(0, lost))


def _fail_all(parts: list[RowSlice], cause: Exception) -> None:
    for part in parts:
        part.entry.fail(cause)
