"""Answers of an ONNX file before it is rewritten, as an `Original` of the graph that is made from it."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from aaserve.bundle.preprocessing import Preprocessing, normalise
from aaserve.export.errors import ExportError, first_line
from aaserve.export.judgement.originals import BATCH, Maps, difference, in_batches
from aaserve.export.sources.onnx_file import OnnxFile

SMALLEST = 1e-7  # smallest probability for the logarithm; float16 can represent it
SUM_TOLERANCE = 1e-3  # of the sum of probabilities


class FileAnswers:
    """The answers of an unchanged file: an `Original`.

    Attributes:
        classes: length of the answer for a picture.
        probabilities: True if the outputs are probabilities without a Softmax; `logits` takes the logarithm.
        max_batch_size: 1 if the file's batch is fixed to 1 or it cannot answer two pictures; else None.

    Raises:
        ExportError: it does not answer one vector per picture.
    """

    exact = "those of the file"
    inexact = "its own with and without ONNX Runtime's optimisations"

    def __init__(self, file: OnnxFile, preprocessing: Preprocessing) -> None:
        self._preprocessing = preprocessing
        self._file = file
        self._session = _session(file, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
        answer = self._answer(1)
        if answer.ndim != 2 or len(answer) != 1 or answer.dtype != np.float32:
            raise ExportError(
                f"{file.path}: expected float32 logits (1, number of classes) for a picture, "
                f"found {answer.dtype} {answer.shape}"
            )
        positive = bool((answer >= 0).all() and abs(answer.sum() - 1) <= SUM_TOLERANCE)
        self.classes = answer.shape[1]
        self.probabilities = positive and self.classes > 1
        self.max_batch_size = file.max_batch_size or self._largest_batch()

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.floating]:
        return self._logits(self._session, pixels)

    def maps(self, pixels: NDArray[np.uint8]) -> Maps:
        """None: a file does not say which values are attention maps."""
        return {}

    def float32_errors(self, pixels: NDArray[np.uint8], *, with_maps: bool) -> tuple[float, float]:
        optimised = _session(self._file, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)
        return difference(self._logits(optimised, pixels), self.logits(pixels)), 0.0

    def _logits(self, session: onnxruntime.InferenceSession, pixels: NDArray[np.uint8]) -> NDArray[np.floating]:
        rows = in_batches(pixels, self.max_batch_size or BATCH)
        found = np.concatenate([session.run(None, self._feed(some))[0] for some in rows])
        return np.log(np.maximum(found, np.float32(SMALLEST))) if self.probabilities else found

    def _feed(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        file = self._file
        nchw = normalise(pixels, self._preprocessing) if file.dtype == "float32" else np.moveaxis(pixels, -1, -3)
        return {file.input: nchw if file.layout == "NCHW" else np.ascontiguousarray(np.moveaxis(nchw, -3, -1))}

    def _answer(self, rows: int) -> NDArray[Any]:
        noise = np.random.default_rng(0).integers(0, 256, (rows, *self._preprocessing.crop, 3), np.uint8)
        try:
            return self._session.run(None, self._feed(noise))[0]
        except Exception as error:  # of ONNX Runtime, of many kinds
            raise ExportError(f"{self._file.path}: does not answer a batch of {rows}: {first_line(error)}") from error

    def _largest_batch(self) -> int | None:
        try:
            return None if self._answer(2).shape == (2, self.classes) else 1
        except ExportError:
            return 1


def _session(file: OnnxFile, level: Any) -> onnxruntime.InferenceSession:
    """The file's graph with the logits as its output."""
    model = onnx.ModelProto()
    model.CopyFrom(file.model)
    if file.logits != model.graph.output[0].name:
        del model.graph.output[:]
        model.graph.output.append(onnx.helper.make_tensor_value_info(file.logits, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = level
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of ONNX Runtime, of many kinds
        raise ExportError(f"{file.path}: ONNX Runtime does not load it: {first_line(error)}") from error
