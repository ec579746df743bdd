"""How much does fp16 or int8 lose? Both graphs answer the same pictures."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aaserve.bundle.manifest import DetectionLowered, Lowered
from aaserve.export.graph.runtime import Graph


class Judgement(Protocol):
    """The loss of fp16 or int8, also as text."""

    @property
    def lost(self) -> float:
        """Percentage points."""

    def section(self, **how: Any) -> Lowered | DetectionLowered:
        """The loss in the form of the manifest; `how` are the fields that both tasks have."""


@dataclass(frozen=True)
class TopOneJudgement:
    """Shares of `judged` pictures; the accuracies are None if the pictures have no labels."""

    judged: int
    top_1_agreement: float
    top_1_fp32: float | None
    top_1: float | None

    @property
    def lost(self) -> float:
        """Percentage points of top-1: accuracy if the pictures are labelled, else agreement with fp32."""
        if self.top_1 is None or self.top_1_fp32 is None:
            return 100 * (1 - self.top_1_agreement)
        return 100 * (self.top_1_fp32 - self.top_1)

    def section(self, **how: Any) -> Lowered:
        return Lowered(**asdict(self), **how)

    def __str__(self) -> str:
        text = f"top-1 agrees with fp32 on {self.top_1_agreement:.2%} of {self.judged} pictures"
        if self.top_1 is None or self.top_1_fp32 is None:
            return f"{text}, which have no labels"
        return f"{text}; accuracy {self.top_1:.2%}, fp32 {self.top_1_fp32:.2%}, {self.lost:+.2f} points lost"


def judge(
    fp32: Graph, lowered: Graph, batches: Iterable[NDArray[np.uint8]], class_indices: Sequence[int | None]
) -> TopOneJudgement:
    """Compare the answers to the pictures of `batches` (B, H, W, 3); `class_indices` are their classes, if known."""
    expected, found = [], []
    for pixels in batches:
        expected.append(fp32(pixels).argmax(1))
        found.append(lowered(pixels).argmax(1))
    best_fp32, best = np.concatenate(expected), np.concatenate(found)  # (N,)
    agreement = float((best == best_fp32).mean())
    if None in class_indices:
        return TopOneJudgement(len(best), agreement, None, None)
    truth = np.array(class_indices)
    return TopOneJudgement(len(best), agreement, float((best_fp32 == truth).mean()), float((best == truth).mean()))
