"""One batch in a lane: decode --> stack --> run_batch, and once more caller by caller where that fails.

Runs in a lane's thread; what became of each part is told to its caller in the event loop, by the batcher.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from aaserve.service.engine.queued_request import Array, RowSlice

RunBatch = Callable[[Array], Array]


@dataclass(frozen=True)
class FewRows:
    """How a few rows are answered soonest: in one batch at a time, by a `run_batch` that uses all cores.

    Args:
        fewer_than: rows, waiting and in flight, below which `run_batch` is used.
    """

    run_batch: RunBatch
    fewer_than: float


class BatchTracing(Protocol):
    """Records batches, and whose rows are in them."""

    def caller(self) -> object:
        """Whoever submits now."""

    def batch(self, callers: Sequence[object], rows: int) -> AbstractContextManager[None]:
        """Entered around a model call, in the lane's thread."""


class Computed(NamedTuple):
    """The model's rows for a part; instants of the clock."""

    part: RowSlice
    rows: Array
    batch_size: int
    started: float
    ended: float


class Refused(NamedTuple):
    """Its rows could not be decoded."""

    part: RowSlice
    error: Exception


class Failed(NamedTuple):
    """The model failed on this part, also without company."""

    part: RowSlice
    error: Exception


Outcome = Computed | Refused | Failed


def compute(
    parts: Sequence[RowSlice], run_batch: RunBatch, *, tracing: BatchTracing | None, clock: Callable[[], float]
) -> list[Outcome]:
    """Give the model those parts that are still wanted; say what became of each of them."""
    outcomes: list[Outcome] = []
    ready: list[RowSlice] = []
    for part in parts:
        if part.entry.wanted(clock()):
            try:
                part.entry.prepare()
            except Exception as error:
                outcomes.append(Refused(part, error))
            else:
                ready.append(part)

    def run(parts: Sequence[RowSlice]) -> list[Outcome]:
        started = clock()
        wanted = [part for part in parts if part.entry.wanted(started)]  # callers may have left meanwhile
        if not wanted:
            return []
        batch = wanted[0].rows if len(wanted) == 1 else np.concatenate([part.rows for part in wanted])
        with tracing.batch([part.entry.caller for part in wanted], len(batch)) if tracing else nullcontext():
            outputs = run_batch(batch)
        if len(outputs) != len(batch):
            raise RuntimeError(f"expected {len(batch)} rows from the model, found {len(outputs)}")
        ended, computed, first = clock(), [], 0
        for part in wanted:
            rows = outputs[first : first + len(part)]
            computed.append(Computed(part, rows, len(batch), started, ended))
            first += len(part)
        return [*computed]

    def run_alone(part: RowSlice) -> list[Outcome]:
        try:
            return run([part])
        except Exception as error:
            return [Failed(part, error)]

    try:
        return outcomes + run(ready)
    except Exception as error:
        if len(ready) == 1:
            return [*outcomes, Failed(ready[0], error)]
        return outcomes + [outcome for part in ready for outcome in run_alone(part)]
