"""A converted graph in ONNX Runtime on the CPU. It is called with pixels, whether its input is uint8 or float32."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from aaserve.bundle.manifest import AttentionMap
from aaserve.bundle.preprocessing import Preprocessing, normalise
from aaserve.export.graph.convert import INPUT_NAME


class Graph:
    """One loaded model; call it with uint8 pixels (B, H, W, 3) to get its first output: of a classifier, its logits.

    Attributes:
        max_batch_size: 1 where the batch is fixed to that, and rows go one by one; else None.
    """

    def __init__(self, model: bytes, preprocessing: Preprocessing) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only; the answers are compared afterwards
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        taken = self._session.get_inputs()[0]
        self._takes_pixels = taken.type == "tensor(uint8)"
        self.max_batch_size = taken.shape[0] if isinstance(taken.shape[0], int) else None
        self._names = [output.name for output in self._session.get_outputs()]
        self._preprocessing = preprocessing

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.concatenate([self._session.run(self._names[:1], feed)[0] for feed in self.feeds(pixels)])

    def feeds(self, pixels: NDArray[np.uint8]) -> Iterator[dict[str, NDArray[np.generic]]]:
        """The model's inputs by name, of as many rows as it takes: the pixels, or normalised float32 (B, 3, H, W)."""
        size = self.max_batch_size or len(pixels)
        for start in range(0, len(pixels), size):
            rows = pixels[start : start + size]
            yield {INPUT_NAME: rows if self._takes_pixels else normalise(rows, self._preprocessing)}

    def values(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Every output of the model by name, for pixels (B, H, W, 3); of models whose batch is dynamic or as large."""
        return dict(zip(self._names, self._session.run(self._names, next(self.feeds(pixels))), strict=True))

    def maps(self, pixels: NDArray[np.uint8], attention: Sequence[AttentionMap]) -> dict[str, NDArray[np.floating]]:
        """The attention maps (B, heads, queries, keys) by layer; of models whose batch is dynamic."""
        found = self._session.run([maps.output for maps in attention], next(self.feeds(pixels))) if attention else []
        return dict(zip([maps.layer for maps in attention], found, strict=True))
