"""What the outputs of a classification network mean: logits --> ranked labels."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import TypedDict

from aaserve.bundle.manifest import Manifest
from aaserve.service.errors import InvalidParameter

SCORES = "scores"


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


def with_scores(outputs: Mapping[str, NDArray[Any]], manifest: Manifest) -> dict[str, NDArray[Any]]:
    """The model's outputs, and beside them SCORES, the softmax probabilities (N, num_classes)."""
    return {SCORES: softmax(outputs[manifest.outputs[0].name]), **outputs}


def labels_wanted(top_k: int | None, manifest: Manifest) -> int:
    """The number of labels to return: `top_k`, or 5.

    Raises:
        InvalidParameter: the model has not so many.
    """
    if top_k is None:
        return min(5, len(manifest.labels))
    if top_k > len(manifest.labels):
        raise InvalidParameter(f"top_k must be 1 to {len(manifest.labels)} for {manifest.name}, found {top_k}")
    return top_k


def rank(row: Mapping[str, NDArray[Any]], manifest: Manifest, top_k: int) -> list[ClassScore]:
    """Return the `top_k` classes of one row of the model's outputs, best first; scores are softmax probabilities."""
    labels = manifest.labels
    scores = softmax(row[manifest.outputs[0].name])
    best = (-scores).argsort(kind="stable")[:top_k]
    return [
        {"label": labels[index], "class_index": index, "score": score}
        for index, score in zip(best.tolist(), scores[best].tolist(), strict=True)
    ]
