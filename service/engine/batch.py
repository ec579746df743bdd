"""One batch in an inference thread: decode --> stack --> run_batch, and again caller by caller where that fails.

What became of each part is told to its caller in the event loop, by the batcher.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aaserve.service.engine.queueing.client_usage import ClientUsage
from aaserve.service.engine.queueing.queued_request import Array, Computed, Outputs, RowSlice
from aaserve.service.errors import InferenceFailed

if TYPE_CHECKING:
    from aaserve.service.observability.tracing import ModelTracing

RunBatch = Callable[[Array, tuple[str, ...], bool], Outputs]  # rows, names of outputs, whether to use all cores
DECODE_BUDGET = 0.1  # seconds of the processor; what a batch has decoded by then is computed


class Postponed:
    """It was not decoded: it would hold up the rest of the batch, or the rest has taken long enough."""


Outcome = tuple[RowSlice, Computed | Postponed | Exception]  # InferenceFailed: the model failed on it, also alone


@dataclass(eq=False, slots=True)
class Batch:
    """Rows that a thread is given."""

    parts: list[RowSlice]
    rows: int = 0
    slow: bool = False  # a picture of a slow client, or outputs that the task does not need
    all_cores: bool = False  # leaves no core to other threads

    def add(self, part: RowSlice, *, slow: bool) -> None:
        self.parts.append(part)
        self.rows += part.size
        self.slow = slow

    def fail(self, cause: Exception) -> None:
        for part in self.parts:
            part.request.fail(inference_failed(cause))


def compute(
    batch: Batch,
    run_batch: RunBatch,
    *,
    usage: ClientUsage,
    tracing: "ModelTracing | None",
    clock: Callable[[], float],
    cpu_clock: Callable[[], float] = time.thread_time,
) -> list[Outcome]:
    """Give the model those parts that are still wanted; say what became of each of them.

    Args:
        batch: if it is not slow, pictures of clients who have become slow since are postponed.
        usage: of all clients; is told how long each picture took.
        cpu_clock: seconds that the processor has worked for this thread.
    """
    outcomes: list[Outcome] = []
    ready: list[RowSlice] = []
    spent = 0.0
    for part in batch.parts:
        request = part.request
        if not request.wanted(clock()):
            continue
        if request.decoded:
            ready.append(part)
        elif spent > DECODE_BUDGET or (usage.is_slow(request.client) and not batch.slow):
            outcomes.append((part, Postponed()))
        else:
            started = cpu_clock()
            try:
                request.prepare()
                ready.append(part)
            except Exception as error:
                outcomes.append((part, error))
            seconds = cpu_clock() - started
            usage.add(request.client, seconds)
            spent += seconds

    def run(parts: Sequence[RowSlice]) -> list[Outcome]:
        started = clock()
        wanted = [part for part in parts if part.request.wanted(started)]  # callers may have left meanwhile
        if not wanted:
            return []
        rows = wanted[0].rows if len(wanted) == 1 else np.concatenate([part.rows for part in wanted])
        with tracing.batch([part.request.caller for part in wanted], len(rows)) if tracing else nullcontext():
            outputs = run_batch(rows, wanted[0].request.names, batch.all_cores)
        if any(len(values) != len(rows) for values in outputs.values()):
            found = {name: len(values) for name, values in outputs.items()}
            raise RuntimeError(f"expected {len(rows)} rows from the model, found {found}")
        ended, first = clock(), 0
        computed: list[Outcome] = []
        for part in wanted:
            own = {name: values[first : first + part.size] for name, values in outputs.items()}
            computed.append((part, Computed(own, len(rows), started, ended)))
            first += part.size
        return computed

    try:
        return outcomes + run(ready)
    except Exception as error:
        if len(ready) == 1:
            return [*outcomes, (ready[0], inference_failed(error))]
    for part in ready:
        try:
            outcomes += run([part])
        except Exception as error:
            outcomes.append((part, inference_failed(error)))
    return outcomes


def inference_failed(cause: Exception) -> InferenceFailed:
    """What the caller is told, with its cause for the log."""
    failure = InferenceFailed()
    failure.__cause__ = cause
    return failure
