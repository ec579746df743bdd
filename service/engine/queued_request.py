"""One caller's place in the queue: some rows in, as many rows out, however they were spread over batches."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aaserve.service.errors import DeadlineExceeded, InferenceFailed

Array = NDArray[Any]


class Outputs(NamedTuple):
    """The model's output for one caller's rows, in their order, and where its time went, in seconds."""

    rows: Array
    decode_seconds: float  # of its own rows; while those of its mates are decoded, it waits
    queue_seconds: float  # until the first row was computed, but for the decoding
    inference_seconds: float  # from then on, until the last one was
    batch_size: int  # rows of the largest batch that any of these were in


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """One caller's rows; a done `answer` means that nobody waits any more.

    Its rows, (N, ...), are there from the start, or one row is made by `decode` right before it is computed.
    """

    size: int
    rows: Array | None
    enqueued: float
    deadline: float
    answer: asyncio.Future[Outputs]
    caller: object = None  # whatever a trace knows it by
    decode: Callable[[], Array] | None = None
    decode_seconds: float = 0.0
    taken: int = 0  # rows handed to the model
    started: float | None = None
    outputs: dict[int, Array] = field(default_factory=dict)  # by the place of the first row
    batch_size: int = 0

    @property
    def waiting(self) -> int:
        """Rows not handed to the model yet."""
        return self.size - self.taken

    def wanted(self, now: float) -> bool:
        """Whether an answer would still be of use."""
        return not self.answer.done() and now < self.deadline

    def take(self, room: int) -> "RowSlice":
        """The next rows, `room` at most."""
        start = self.taken
        self.taken = min(start + room, self.size)
        return RowSlice(self, start, self.taken)

    def prepare(self) -> None:
        """In a lane: have the rows; raises what `decode` raises."""
        if self.decode:
            started = time.perf_counter()
            self.rows = self.decode()[np.newaxis]
            self.decode_seconds = time.perf_counter() - started
            self.decode = None  # and let go of the picture

    def expire(self) -> None:
        """Its deadline has passed."""
        if not self.answer.done():
            self.answer.set_exception(DeadlineExceeded())

    def refuse(self, error: Exception) -> None:
        """End the wait: its rows cannot be had, and why is for the caller to know."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def fail(self, cause: BaseException) -> None:
        """End the wait as `fail` does."""
        fail(self.answer, cause)

    def close(self) -> None:
        """Nobody waits any more, however it ended."""
        if not self.answer.cancel() and not self.answer.cancelled():
            self.answer.exception()  # seen, even where the caller left in the moment it was set


@dataclass(frozen=True, slots=True)
class RowSlice:
    """Those rows of an entry that are in one batch."""

    entry: QueuedRequest
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def rows(self) -> Array:
        assert self.entry.rows is not None  # prepared
        return self.entry.rows[self.start : self.stop]

    def settle(self, outputs: Array, *, batch_size: int, started: float, ended: float) -> None:
        """Take the model's rows for this part; with the last part, the caller has its answer."""
        entry = self.entry
        entry.batch_size = max(batch_size, entry.batch_size)
        entry.started = started if entry.started is None else min(started, entry.started)
        if entry.answer.done():
            return
        if len(self) < entry.size:
            entry.outputs[self.start] = outputs
            if sum(map(len, entry.outputs.values())) < entry.size:
                return
            outputs = np.concatenate([entry.outputs[start] for start in sorted(entry.outputs)])
        queued = max(0.0, entry.started - entry.enqueued - entry.decode_seconds)
        entry.answer.set_result(Outputs(outputs, entry.decode_seconds, queued, ended - entry.started, entry.batch_size))


def fail(answer: "asyncio.Future[Any]", cause: BaseException) -> None:
    """End whoever waits for the answer: with InferenceFailed for the caller, and its cause for the log."""
    if not answer.done():
        failure = InferenceFailed()
        failure.__cause__ = cause
        answer.set_exception(failure)
