"""One caller's place in the queue: some rows in, as many rows out, however they were spread over batches."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InferenceFailed

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """The model's output for one caller's rows, in their order, and where its time went, in seconds."""

    rows: Array
    queue_seconds: float  # until the first row was computed
    inference_seconds: float  # from then on, until the last one was
    batch_size: int  # rows of the largest batch that any of these were in


@dataclass(slots=True, eq=False)
class Entry:
    """One caller's rows; a done `answer` means that nobody waits any more."""

    rows: Array  # (N, ...)
    enqueued: float
    deadline: float
    answer: asyncio.Future[Answer]
    caller: object = None  # whatever a trace knows it by
    taken: int = 0  # rows handed to the model
    started: float | None = None
    outputs: dict[int, Array] = field(default_factory=dict)  # by the place of the first row
    batch_size: int = 0

    @property
    def waiting(self) -> int:
        """Rows not handed to the model yet."""
        return len(self.rows) - self.taken

    def wanted(self, now: float) -> bool:
        """Whether an answer would still be of use."""
        return not self.answer.done() and now < self.deadline

    def take(self, room: int) -> "Part":
        """The next rows, `room` at most."""
        start = self.taken
        self.taken = min(start + room, len(self.rows))
        return Part(self, start, self.taken)

    def fail(self, cause: BaseException) -> None:
        """End the wait as `fail` does."""
        fail(self.answer, cause)

    def close(self) -> None:
        """Nobody waits any more, however it ended."""
        if not self.answer.cancel() and not self.answer.cancelled():
            self.answer.exception()  # seen, even where the caller left in the moment it was set


@dataclass(frozen=True, slots=True)
class Part:
    """Those rows of an entry that are in one batch."""

    entry: Entry
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def rows(self) -> Array:
        return self.entry.rows[self.start : self.stop]

    def settle(self, outputs: Array, *, batch_size: int, started: float, now: float) -> None:
        """Take the model's rows for this part; with the last part, the caller has its answer."""
        entry = self.entry
        entry.batch_size = max(batch_size, entry.batch_size)
        entry.started = min(started, entry.started or started)
        entry.outputs[self.start] = outputs
        if entry.answer.done() or sum(map(len, entry.outputs.values())) < len(entry.rows):
            return
        joined = np.concatenate([entry.outputs[start] for start in sorted(entry.outputs)])
        answer = Answer(joined, entry.started - entry.enqueued, now - entry.started, entry.batch_size)
        entry.answer.set_result(answer)


def fail(answer: "asyncio.Future[Any]", cause: BaseException) -> None:
    """End whoever waits for the answer: with InferenceFailed for the caller, and its cause for the log."""
    if not answer.done():
        failure = InferenceFailed()
        failure.__cause__ = cause
        answer.set_exception(failure)
