"""Top-1 and top-5 of a classifier on labelled pictures. Needs no torch."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aaserve.bundle.bundle import Bundle
from aaserve.bundle.manifest import Accuracy
from aaserve.export.accuracy.answers import answers, on_the_cpu
from aaserve.export.errors import ExportError
from aaserve.export.judgement.samples import Sample, find_samples

TOP = 5


def find_labelled(folder: Path, labels: Sequence[str], report: Callable[[str], None]) -> list[Sample]:
    """The pictures in folders named as labels; `report` is told what is found.

    Raises:
        ExportError, ValueError: as `find_samples`, or pictures without a label.
    """
    samples = find_samples(folder, labels, report)
    if any(sample.class_index is None for sample in samples):
        raise ExportError(f"{folder}: expected folders named as labels, found pictures without one")
    return samples


def top_k(opened: Bundle, batches: Iterable[Sequence[Sample]], dataset: str, measured: str) -> Accuracy:
    """Let the model of a bundle answer labelled pictures.

    Raises:
        ExportError: as `answers`.
    """
    ranks: list[int] = []
    for samples, _, outputs in answers(on_the_cpu(opened), opened.manifest, batches):
        [logits] = outputs.values()
        ranks += [_rank(row, sample.class_index) for row, sample in zip(logits, samples, strict=True)]
    found = np.array(ranks)
    return Accuracy(
        dataset=dataset,
        images=len(found),
        top_1=float((found < 1).mean()),
        top_5=float((found < TOP).mean()),
        measured=measured,
    )


def _rank(logits: NDArray[np.float32], class_index: int) -> int:
    """How many classes come before the right one; of equal ones the first, as the service ranks them."""
    return int((logits > logits[class_index]).sum() + (logits[:class_index] == logits[class_index]).sum())
