"""A converted graph in ONNX Runtime on the CPU. It is called with pixels, whether its input is uint8 or float32."""

from collections.abc import Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from aaserve.bundle.manifest import AttentionMap
from aaserve.bundle.preprocessing import Preprocessing, normalise
from aaserve.export.graph.convert import INPUT_NAME, OUTPUT_NAME


class Graph:
    """One loaded model; call it with uint8 pixels (B, H, W, 3) to get logits (B, num_classes)."""

    def __init__(self, model: bytes, preprocessing: Preprocessing) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only; the answers are compared afterwards
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._takes_pixels = self._session.get_inputs()[0].type == "tensor(uint8)"
        self._preprocessing = preprocessing

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._session.run([OUTPUT_NAME], self.feed(pixels))[0]

    def feed(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """The model's input by name: the pixels, or normalised float32 (B, 3, H, W)."""
        return {INPUT_NAME: pixels if self._takes_pixels else normalise(pixels, self._preprocessing)}

    def values(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Every output of the model by name."""
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, self.feed(pixels)), strict=True))

    def maps(self, pixels: NDArray[np.uint8], attention: Sequence[AttentionMap]) -> dict[str, NDArray[np.floating]]:
        """The attention maps (B, heads, queries, keys) by layer."""
        found = self._session.run([maps.output for maps in attention], self.feed(pixels)) if attention else []
        return dict(zip([maps.layer for maps in attention], found, strict=True))
