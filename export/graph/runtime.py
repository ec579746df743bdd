"""A converted graph in ONNX Runtime on the CPU, called with pixels even if its input is float32."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from aaserve.bundle.manifest import AttentionMap
from aaserve.bundle.preprocessing import Preprocessing, normalise
from aaserve.export.graph.convert import INPUT_NAME


class Graph:
    """A loaded model. Call it with uint8 pixels (B, H, W, 3) to get its first output; for a classifier, the logits.

    Attributes:
        max_batch_size: 1 if the batch is fixed to 1 and rows run one by one; else None.
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
        """The model's inputs by name: the pixels, or normalised float32 (B, 3, H, W)."""
        size = self.max_batch_size or len(pixels)
        for start in range(0, len(pixels), size):
            rows = pixels[start : start + size]
            yield {INPUT_NAME: rows if self._takes_pixels else normalise(rows, self._preprocessing)}

    def values(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Every output by name, for pixels (B, H, W, 3). The model's batch must be dynamic or have B rows."""
        return dict(zip(self._names, self._session.run(self._names, next(self.feeds(pixels))), strict=True))

    def maps(self, pixels: NDArray[np.uint8], attention: Sequence[AttentionMap]) -> dict[str, NDArray[np.floating]]:
        """The attention maps (B, heads, queries, keys) by layer. The model's batch must be dynamic."""
        found = self.values(pixels) if attention else {}
        return {maps.layer: found[maps.output] for maps in attention}
