"""Common to all peers: reading pictures, ONNX Runtime, and the five best labels.

    picture --read--> a row of the model's input --run, in batches--> logits --answer--> {"predictions": […]}

The driver sets bundle, port and image reader through the environment, and the cores through the affinity.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import aaserve.bundle.telemetry  # noqa: F401  (before onnxruntime)
from aaserve.bundle.bundle import open_bundle
from benchmarks.peers.servers.reading import READERS

import onnxruntime  # isort: skip

PORT = int(os.environ["PEER_PORT"])
CORES = len(os.sched_getaffinity(0))
TOP_K = 5


class Classifier:
    """A session with preprocessing and ranking.

    Args:
        threads: of ONNX Runtime in one call; None: its default, the number of cores.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._bundle = open_bundle(Path(os.environ["PEER_BUNDLE"]))
        self._read = READERS[os.environ["PEER_READER"]]
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            self._bundle.model_path, options, providers=["CPUExecutionProvider"]
        )

    def read(self, picture: bytes) -> NDArray[Any]:
        """One row of the model's input."""
        return self._read(picture, self._bundle.manifest)

    def run(self, rows: Sequence[NDArray[Any]] | NDArray[Any]) -> NDArray[np.float32]:
        """Logits (B, num_classes) of B rows."""
        manifest = self._bundle.manifest
        logits: NDArray[np.float32] = self._session.run(
            [manifest.outputs[0].name], {manifest.input.name: np.asarray(rows)}
        )[0]
        return logits

    def answer(self, logits: NDArray[np.float32]) -> dict[str, list[dict[str, Any]]]:
        """The five best labels of one row of logits (num_classes,), in the form of aaserve's /classify."""
        exponentials = np.exp(logits - logits.max())
        scores = exponentials / exponentials.sum()
        best = np.argsort(-scores, kind="stable")[:TOP_K].tolist()
        labels = self._bundle.manifest.labels
        return {
            "predictions": [
                {"label": labels[index], "class_index": index, "score": float(scores[index])} for index in best
            ]
        }

    def classify(self, pictures: list[bytes]) -> list[dict[str, list[dict[str, Any]]]]:
        """Read, run and rank a batch."""
        return [self.answer(logits) for logits in self.run([self.read(picture) for picture in pictures])]

    def warm_up(self, max_batch_size: int) -> None:
        """Run the smallest and the largest batch: ONNX Runtime plans its memory on first use."""
        shape = self._bundle.manifest.input
        row = np.zeros(shape.shape, shape.dtype)
        for size in (1, max_batch_size):
            self.run([row] * size)
