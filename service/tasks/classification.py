"""Logits --> ranked labels."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import TypedDict


class ClassScore(TypedDict):
    """One class and its probability."""

    label: str
    class_index: Annotated[int, Field(ge=0)]
    score: Annotated[float, Field(ge=0, le=1, description="Softmax probability.")]


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return the probabilities of logits (..., num_classes)."""
    scores: NDArray[np.float64] = logits.astype(np.float64)
    # In place, and by the reductions themselves: for one row numpy's ways there take longer than the arithmetic.
    scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= np.add.reduce(scores, axis=-1, keepdims=True)
    return scores


def rank(logits: NDArray[Any], labels: Sequence[str], top_k: int) -> list[ClassScore]:
    """Return the `top_k` classes of one row of logits (num_classes,), best first; scores are softmax probabilities."""
    scores = softmax(logits)
    best = (-scores).argsort(kind="stable")[:top_k]
    return [
        {"label": labels[index], "class_index": index, "score": score}
        for index, score in zip(best.tolist(), scores[best].tolist(), strict=True)
    ]
