"""The task of a network: the part of a run that differs between classification and detection.

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

from aaserve.training.classification.task import Classification
from aaserve.training.datasets.data import Data
from aaserve.training.detection.task import Detection
from aaserve.training.log import Row
from aaserve.training.recipe import CommonRecipe, DetectorRecipe, Recipe

if TYPE_CHECKING:
    from aaserve.training.loop.run import Run


class Score(Protocol):
    """The result of an evaluation; as text, a short summary."""

    images: int

    def row(self) -> Row:
        """The columns of the log."""


class Task(Protocol):
    def open_data(self, folder: Path, device: torch.device) -> Data:
        """Find the pictures; as `training.datasets.data.open_data`."""

    def fingerprint(self, data: Data) -> bytes:
        """Data that identifies the labels of the training pictures."""

    def columns(self) -> tuple[str, ...]:
        """The log columns of a score."""

    def score(self, run: Run, row: Row) -> Score:
        """The score in a row of the log."""

    def batches(self, run: Run, order: Sequence[NDArray[np.int64]], seed: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        """The data that `parts` needs, for each batch of indices of training pictures."""

    def parts(self, run: Run, batch: tuple[Any, ...], random: np.random.Generator) -> list[tuple[Any, ...]]:
        """The randomly varied inputs of `loss`, in the recipe's number of parts per batch."""

    def loss(self, run: Run, *part: Any) -> Tensor:
        """The mean loss of one part."""

    def evaluate(self, run: Run) -> Score:
        """Score the network on the test pictures."""


def task_of(recipe: CommonRecipe) -> Task:
    """The task of a recipe."""
    if isinstance(recipe, DetectorRecipe):
        return Detection(recipe)
    assert isinstance(recipe, Recipe)
    return Classification(recipe)
