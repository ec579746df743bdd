"""Logits to labels."""

import numpy as np
import pytest

from aaserve.bundle.bundle import open_bundle
from aaserve.service.tasks import classification
from aaserve.service.tasks.classification import ClassScore
from tests.helpers import REPOSITORY

LABELS = ("a", "b", "c", "d")
MANIFEST = open_bundle(REPOSITORY / "aa-cifar100" / "1").manifest.model_copy(update={"labels": LABELS})


def rank(logits: np.ndarray, top_k: int) -> list[ClassScore]:
    return classification.rank({"logits": logits}, MANIFEST, top_k)


def test_scores_are_the_softmax_best_first() -> None:
    ranked = rank(np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32)), 3)
    assert [(score["label"], score["class_index"]) for score in ranked] == [("b", 1), ("d", 3), ("c", 2)]
    assert [score["score"] for score in ranked] == pytest.approx([0.4, 0.3, 0.2])


def test_large_logits_do_not_overflow() -> None:
    ranked = rank(np.array([1e30, -1e30, 0, 0], np.float32), 4)
    assert ranked[0]["score"] == 1
    assert sum(score["score"] for score in ranked) == 1


def test_equal_scores_keep_the_order_of_the_classes() -> None:
    assert [score["label"] for score in rank(np.zeros(4, np.float32), 4)] == list(LABELS)
