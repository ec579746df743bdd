"""The ways in which a model runs a batch, and which of them answers soonest.

    usual       in a lane, beside other lanes
    few rows    in a lane, with all the cores
    at once     in the event loop, before a lane would have heard of it

Knows nothing of HTTP or ONNX Runtime.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from service.batch import RunBatch
from service.entry import Entry, Part

_QUICK = 0.002  # seconds of one row; to tell a thread of it and to hear of its end takes a good part of it
_TURN = 0.008  # seconds that rows take in one turn of the event loop, at most (docs/decisions/0025)


@dataclass(frozen=True)
class Few:
    """How few rows are answered soonest: one batch at a time, by a `run_batch` that uses all the cores.

    That is while fewer than `crowd` rows wait and compute; all that wait go together then.
    """

    run_batch: RunBatch
    crowd: float


@dataclass(frozen=True)
class AtOnce:
    """How rows that need no decoding are answered without a thread: in the event loop, at most `most` in each turn.

    That is where it `suits`, and while no lane is at work.
    """

    run_batch: RunBatch
    most: int
    suits: Callable[[], bool]


def at_once(run_batch: RunBatch, seconds_of_one_row: float, lanes: int, alone: Callable[[], bool]) -> AtOnce | None:
    """Of a quick model: for who is `alone`; for all where there is one lane, which would only be in the way."""
    if seconds_of_one_row >= _QUICK:
        return None
    if lanes == 1:
        return AtOnce(run_batch, most=int(_TURN / seconds_of_one_row), suits=lambda: True)
    return AtOnce(run_batch, most=1, suits=alone)


class Way(NamedTuple):
    """How one batch is run."""

    run_batch: RunBatch
    all_cores: bool = False
    at_once: bool = False


@dataclass(frozen=True)
class Ways:
    """What a model has to offer; `usual` is always there."""

    usual: RunBatch
    few: Few | None = None
    at_once: AtOnce | None = None

    def are_few(self, rows: int) -> bool:
        """Whether so many rows, waiting and computing, are best given all the cores."""
        return self.few is not None and rows < self.few.crowd

    def go_at_once(self, entry: Entry) -> bool:
        """Whether its rows are for the event loop itself."""
        return self.at_once is not None and entry.decode is None and self.at_once.suits()

    def best(self, parts: Sequence[Part], rows: int) -> Way:
        """For these parts of `rows` that wait, while nothing computes."""
        if self.at_once and all(self.go_at_once(part.entry) for part in parts):
            return Way(self.at_once.run_batch, at_once=True)
        if self.few and self.are_few(rows):
            return Way(self.few.run_batch, all_cores=True)
        return Way(self.usual)
