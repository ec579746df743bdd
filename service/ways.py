"""The ways in which a model runs a batch, and which of them answers soonest.

    usual       in a lane, beside other lanes
    few rows    in a lane, with all the cores
    a lone row  in the event loop, before a lane would have heard of it

Knows nothing of HTTP or ONNX Runtime.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from service.batch import RunBatch
from service.entry import Part

QUICK = 0.002  # seconds of one row; to tell a thread of it and to hear of its end takes a good part of it


@dataclass(frozen=True)
class Few:
    """How few rows are answered soonest: one batch at a time, by a `run_batch` that uses all the cores.

    That is while fewer than `crowd` rows wait and compute; all that wait go together then.
    """

    run_batch: RunBatch
    crowd: float


@dataclass(frozen=True)
class AtOnce:
    """How a row that needs no decoding is answered without a thread: in the event loop, if nobody else is there."""

    run_batch: RunBatch
    alone: Callable[[], bool]


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

    def best(self, parts: Sequence[Part], rows: int) -> Way:
        """For these parts of `rows` that wait, while nothing computes."""
        if self.at_once and len(parts) == 1 and parts[0].entry.is_one_row and self.at_once.alone():
            return Way(self.at_once.run_batch, at_once=True)
        if self.few and self.are_few(rows):
            return Way(self.few.run_batch, all_cores=True)
        return Way(self.usual)
