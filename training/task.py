"""What a network learns: the part of a run that differs between classification and detection.

folder --open_data--> Data --batches--> batch --parts--> inputs, wanted --loss--> a number to make smaller
                                        network --evaluate--> score, a line of the log
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aaserve.training.datasets.data import Data
from aaserve.training.log import Row

if TYPE_CHECKING:
    from aaserve.training.run import Run


class Score(Protocol):
    """What an evaluation gave; as text, a few words for people."""

    images: int

    def row(self) -> Row:
        """The columns of the log."""


class Task(Protocol):
    def open_data(self, folder: Path, device: torch.device) -> Data:
        """Find the pictures; as `training.datasets.data.open_data`."""

    def fingerprint(self, data: Data) -> bytes:
        """What tells the training pictures' labels from others."""

    def columns(self) -> tuple[str, ...]:
        """Those of a score in the log."""

    def score(self, run: Run, row: Row) -> Score:
        """The score that a row of the log was made from."""

    def batches(self, run: Run, order: Sequence[NDArray[np.int64]], seed: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        """What `parts` needs of each batch of indices of training pictures."""

    def parts(self, run: Run, batch: tuple[Any, ...], random: np.random.Generator) -> list[tuple[Any, ...]]:
        """The inputs of `loss`, varied at random, in as many parts as the recipe divides a batch into."""

    def loss(self, run: Run, *part: Any) -> Tensor:
        """The mean loss of one part."""

    def evaluate(self, run: Run) -> Score:
        """Score the network on the test pictures."""
