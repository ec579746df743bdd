"""One caller's place in the queue: some rows in, their outputs out, however they were spread over batches."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Sizes = tuple[tuple[int, int], ...]  # (width, height) of each picture
Outputs = Mapping[str, Array]  # by the names that the model gives them; the first axis is rows


class Inference(NamedTuple):
    """The model's outputs for some rows, in their order, and where the time went.

    Args:
        stages: seconds. While those of its mates are decoded, a row waits in `queue`; `inference` is from when the
            first row is computed until the last one was.
        batch_size: rows of the largest batch that any of these were in.
        sizes: (width, height) of the upright pictures that the rows were made of; only where the manifest has boxes.
    """

    outputs: Outputs
    stages: dict[str, float]
    batch_size: int
    sizes: Sizes = ()

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(next(iter(self.outputs.values())))

    @property
    def size(self) -> int:
        """Numbers in all outputs together."""
        return sum([values.size for values in self.outputs.values()])

    def row(self, index: int) -> Outputs:
        """The outputs of one row, without the axis of rows."""
        return {name: values[index] for name, values in self.outputs.items()}


class Computed(NamedTuple):
    """What one batch has found for some rows; instants of the clock."""

    outputs: Outputs
    batch_size: int
    started: float
    ended: float


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """One caller's rows; a done `answer` means that the caller no longer waits.

    Args:
        rows: (N, ...), or what returns the only row, called in an inference thread right before it is computed.
        names: of the outputs that are wanted; only requests that want the same share a batch.
        caller: the tracing context of the caller.
        client: whose they are.
    """

    size: int
    rows: Array | Callable[[], Array]
    names: tuple[str, ...]
    enqueued: float
    deadline: float
    answer: asyncio.Future[Inference]
    caller: object = None
    client: str = ""
    decode_seconds: float = 0.0
    taken: int = 0  # rows handed to the model
    computed: dict[int, Computed] = field(default_factory=dict)  # by the place of the first row
    answered: int = 0  # rows in `computed`

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

    @property
    def decoded(self) -> bool:
        """Whether its rows are there."""
        return not callable(self.rows)

    def prepare(self) -> None:
        """In an inference thread: have the rows; raises what decoding raises."""
        if callable(self.rows):
            started = time.perf_counter()
            self.rows = self.rows()[np.newaxis]
            self.decode_seconds = time.perf_counter() - started

    def settle(self, part: "RowSlice", computed: Computed) -> None:
        """Take what a batch has found for a part; with the last part, the caller has its answer."""
        self.computed[part.start] = computed
        self.answered += part.size
        if self.answered < self.size or self.answer.done():
            return
        parts = [self.computed[start] for start in sorted(self.computed)]
        started = min([each.started for each in parts])
        stages = {
            "decode": self.decode_seconds,
            "queue": max(0.0, started - self.enqueued - self.decode_seconds),
            "inference": computed.ended - started,
        }
        outputs = joined([each.outputs for each in parts])
        self.answer.set_result(Inference(outputs, stages, max([each.batch_size for each in parts])))

    def fail(self, error: Exception) -> None:
        """End the wait, if the caller still does."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def close(self) -> None:
        """Note that the caller no longer waits, for any reason."""
        if not self.answer.cancel() and not self.answer.cancelled():
            self.answer.exception()  # seen, even where the caller left in the moment it was set


class RowSlice(NamedTuple):
    """Those rows of a request that are in one batch."""

    request: QueuedRequest
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    @property
    def rows(self) -> Array:
        """The rows themselves, once they are prepared."""
        assert not callable(self.request.rows)
        return self.request.rows[self.start : self.stop]


def joined(parts: Sequence[Outputs]) -> Outputs:
    """The rows of all parts, one after the other."""
    [first, *others] = parts
    return {name: np.concatenate([part[name] for part in parts]) for name in first} if others else first
