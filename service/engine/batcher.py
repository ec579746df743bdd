"""Greedy dynamic batching: many callers, one model.

    submit(rows) --> queue --> what waits, shared by the threads that are free --> one answer per caller
                                   each thread: decode --> stack --> run_batch

Knows nothing of HTTP or ONNX Runtime. `run_batch` is any blocking function that maps (batch, ...) and names of outputs
to these outputs, each (batch, ...); it runs in the inference threads, one batch at a time in each. While all are busy,
one more batch is prepared as soon as it is full; one that could still grow is not (docs/decisions/0009). A batch that
fails is run again caller by caller, so that only the culprit fails. All that is decided is decided in the event loop,
by `_dispatch`, when something has changed: no locks, nothing polls, an idle batcher does nothing.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Self

from aaserve.service.engine.batch import Batch, Outcome, Postponed, RunBatch, compute, inference_failed
from aaserve.service.engine.inference_threads import InferenceThreads
from aaserve.service.engine.queueing.client_usage import ClientUsage
from aaserve.service.engine.queueing.queue import RowQueue
from aaserve.service.engine.queueing.queued_request import Array, Computed, Inference, QueuedRequest
from aaserve.service.errors import DeadlineExceeded, Draining, InferenceFailed, ModelLost, QueueFull, TooManyRows

if TYPE_CHECKING:
    from aaserve.service.observability.tracing import ModelTracing


@dataclass(eq=False)
class DynamicBatcher:
    """Groups concurrent `submit` calls into batches. All limits count rows.

    Args:
        run_batch: runs the model.
        lanes: threads to run it in, which the batcher opens and closes.
        usage: of all clients; decides whose rows go first.
        max_batch_size: rows in one call of `run_batch`, at most.
        max_queue_delay: seconds a batch waits for company once a lane is free, counted from its first entry; without
            it, what waits is shared evenly by the free lanes.
        max_queue_size: rows waiting, at most; beyond that `submit` refuses.
        few_rows: below so many rows, waiting and in flight, one batch at a time gets all cores.
        recover: called in a lane once every caller of a batch has failed alone too; nothing is begun meanwhile, and
            what it raises ends the batcher.
        on_lost: called in the event loop with what has ended the batcher before its time.
        on_answered: called in the event loop with the number of rows a batch has answered, and whether they were slow.
        tracing: records batches; without it, nothing does.
        clock: the event loop's clock, in seconds, at its full resolution.
    """

    run_batch: RunBatch
    _: KW_ONLY
    lanes: InferenceThreads
    usage: ClientUsage
    max_batch_size: int
    max_queue_delay: float
    max_queue_size: int
    few_rows: float = 0
    recover: Callable[[], None] = lambda: None
    on_lost: Callable[[Exception], None] = lambda cause: None
    on_answered: Callable[[int, bool], None] = lambda rows, slow: None
    tracing: "ModelTracing | None" = None
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._queue = RowQueue(self.usage)
        self._in_flight: dict[Batch, None] = {}  # in order: as many compute as there are threads, others are prepared
        self._recovering = False
        self._dispatching = False
        self._company: asyncio.TimerHandle | None = None
        self._lost: Exception | None = None
        self._abandoned = False
        self._accepting = False
        self.alive = True  # somebody answers what is queued
        self._ended = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self.lanes.open(self._thread_ended)
        self._accepting = True
        return self

    async def __aexit__(self, *_: object) -> None:
        """Refuse new work, answer what is queued (each entry has its deadline, so this ends), stop."""
        self._accepting = False
        self._dispatch_soon()
        await self._ended.wait()
        self.lanes.close(wait=not self._abandoned)

    def abandon(self, cause: ModelLost) -> None:
        """Give up the model, whose call does not return: waiting callers get InferenceFailed, `on_lost` the cause."""
        self._abandoned = True
        self._recovering = False
        self._lost = self._lost or cause
        for batch in self._in_flight:
            batch.fail(cause)
        self._in_flight.clear()
        self._dispatch_soon()

    def computing(self, slow: bool) -> int:
        """Rows in the running batches that are slow, or in the other ones."""
        return sum([batch.rows for batch in islice(self._in_flight, self.lanes.number) if batch.slow == slow])

    @property
    def slow_waiting(self) -> int:
        """Rows of slow clients that wait."""
        return self._queue.rows - self._queue.rows_waiting(slow=False)

    @property
    def _slow_allowed(self) -> bool:
        """Whether one more may be slow; where there are several threads, one is kept free of those."""
        return sum([batch.slow for batch in self._in_flight]) < max(1, self.lanes.number - 1)

    @property
    def queue_depth(self) -> int:
        """Rows waiting, those in the running batches not counted."""
        return self._queue.rows + sum([batch.rows for batch in islice(self._in_flight, self.lanes.number, None)])

    async def submit(
        self, rows: Array | Callable[[], Array], *, names: tuple[str, ...] = (), client: str = "", deadline: float
    ) -> Inference:
        """Return the model's outputs for some rows.

        Args:
            rows: (N, ...), or what returns one row; that is called in a thread right before its batch, unless the
                caller has left. What it raises, its batch mates do not notice.
            names: of the outputs that are wanted; none for those that `run_batch` has by default.
            client: whose they are.
            deadline: an instant of the event loop's clock.

        Raises:
            Draining, QueueFull: refused at once, all rows of it; the caller may retry elsewhere.
            TooManyRows: more than may ever wait.
            DeadlineExceeded: no answer in time.
            InferenceFailed: the model failed on these rows, also without company.
        """
        size = 1 if callable(rows) else len(rows)
        if not self._accepting or not self.alive:
            raise Draining
        if size > self.max_queue_size:
            raise TooManyRows(f"more than {self.max_queue_size} rows")
        if self.queue_depth + size > self.max_queue_size:
            raise QueueFull
        now = self.clock()
        if now >= deadline:
            raise DeadlineExceeded
        caller = self.tracing.caller() if self.tracing else None
        request = QueuedRequest(size, rows, names, now, deadline, self._loop.create_future(), caller, client)
        self.usage.seen(client)
        self._queue.add(request)
        self._dispatch_soon()
        expiry = self._loop.call_at(deadline, request.fail, DeadlineExceeded())
        try:
            return await request.answer
        finally:
            expiry.cancel()
            request.close()
            self._queue.drop(request)

    def _dispatch_soon(self) -> None:
        """Dispatch after the requests of this turn of the event loop have arrived."""
        if not self._dispatching:
            self._dispatching = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Hand out what can go now, and end where that is due."""
        self._dispatching = False
        try:
            while not self._lost and (room := self._room()):
                alone = not self._in_flight and self._are_few()
                batch = self._queue.take(room, self.clock(), slow=self._slow_allowed)
                if batch.parts:
                    batch.all_cores = alone and not batch.slow
                    batch.slow = batch.slow or bool(batch.parts[0].request.names)
                    self._give(batch)
        except Exception as error:  # a bug: callers must not wait for ever
            self._lost = error
        if self._lost:
            for request in self._queue.items():
                self._queue.drop(request)
                request.fail(inference_failed(self._lost))
        if not self._in_flight and not self._recovering and self.alive:
            if self._lost:
                self._end()
                self.on_lost(self._lost)
            elif not self._accepting and not self._queue.rows:
                self._end()

    def _end(self) -> None:
        self.alive = False
        self._ended.set()

    def _room(self) -> int:
        """Rows of the batch that can go now; 0 if none can."""
        waiting = self._queue.rows_waiting(slow=self._slow_allowed)
        if not waiting or self._recovering:
            return 0
        free = self.lanes.number - len(self._in_flight)
        if free <= 0:  # prepared, so that no thread waits for the event loop; a batch that may still grow is not
            return self.max_batch_size if free == 0 and waiting >= self.max_batch_size else 0
        if waiting < self.max_batch_size and self._wait_for_company():
            return 0
        are_few = self._are_few()
        if are_few and any(batch.all_cores for batch in self._in_flight):
            return 0  # it is soon done
        if self.max_queue_delay or (are_few and not self._in_flight):
            return self.max_batch_size
        return min(-(-waiting // free), self.max_batch_size)

    def _are_few(self) -> bool:
        """True if all rows, waiting and in flight, are so few that they are best given all the cores."""
        return self._queue.rows + sum([batch.rows for batch in self._in_flight]) < self.few_rows

    def _wait_for_company(self) -> bool:
        """Whether a batch that is not full stays; it is looked at again when that is over."""
        if self._company:
            self._company.cancel()
            self._company = None
        if not self.max_queue_delay or not self._accepting:
            return False
        oldest = self._queue.next(slow=self._slow_allowed)
        if oldest is None or self.clock() >= (until := oldest.enqueued + self.max_queue_delay):
            return False
        self._company = self._loop.call_at(until, self._dispatch_soon)
        return True

    def _give(self, batch: Batch) -> None:
        self._in_flight[batch] = None
        work = partial(compute, batch, self.run_batch, usage=self.usage, tracing=self.tracing, clock=self.clock)
        self.lanes.give(work, partial(self._computed, batch))

    def _computed(self, batch: Batch, outcomes: list[Outcome] | None, error: Exception | None) -> None:
        if batch not in self._in_flight:  # given up
            return
        del self._in_flight[batch]
        try:
            if error:
                batch.fail(error)
            self._answer(outcomes or [], failed=error is not None, slow=batch.slow)
        except Exception as bug:
            batch.fail(bug)
            self._lost = self._lost or bug
        self._dispatch()

    def _answer(self, outcomes: list[Outcome], *, failed: bool, slow: bool) -> None:
        """Tell the callers what became of their rows."""
        answered = 0
        for part, outcome in reversed(outcomes):  # so that those who are put back keep their order
            if isinstance(outcome, Postponed):
                if not part.request.answer.done():
                    self._queue.put_back_rows(part)
            elif isinstance(outcome, Computed):
                answered += part.size
                part.request.settle(part, outcome)
            else:
                failed = failed or isinstance(outcome, InferenceFailed)
                part.request.fail(outcome)
                self._queue.drop(part.request)
        if failed and not answered and not self._recovering:
            self._recovering = True  # nothing is given to a model that may be dead
            self.lanes.give(self.recover, self._recovered)
        slow = slow or all(self.usage.is_slow(part.request.client) for part, _ in outcomes)
        self.on_answered(answered, slow)

    def _recovered(self, _: None, error: Exception | None) -> None:
        self._recovering = False
        self._lost = self._lost or error
        self._dispatch()

    def _thread_ended(self, error: BaseException) -> None:
        self.abandon(ModelLost(f"an inference thread ended unexpectedly: {error!r}"))
