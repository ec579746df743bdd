"""A bundle --> a callable model on the execution provider that was asked for, or no start at all."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from bundle.bundle import Bundle
from service.errors import StartFailed
from service.settings import ProviderName

_PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider"],
}
_TENSOR_TYPES = {"float32": "tensor(float)", "uint8": "tensor(uint8)"}
log = logging.getLogger("aaserve")


class OnnxSession:
    """One loaded model. `run` is thread-safe and releases the interpreter lock while it computes.

    Args:
        max_batch_size: rows in one call of `run`, at most.
        pad: round batches up to sizes that are warm; by default where the provider pays for each new shape.

    Raises:
        StartFailed: the provider is not to be had, or the model is not what its manifest says; one line.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        provider: ProviderName,
        intra_op_num_threads: int,
        max_batch_size: int,
        pad: bool | None = None,
    ) -> None:
        onnxruntime.disable_telemetry_events()  # on Windows; elsewhere bundle.telemetry has prevented it
        self._bundle = bundle
        self._intra_op_num_threads = intra_op_num_threads
        self._session = self._open_best() if provider == "auto" else self._open(_PROVIDERS[provider])
        self.provider: str = self._session.get_providers()[0]
        self._pad = self.provider != "CPUExecutionProvider" if pad is None else pad
        self.warm_sizes = _buckets(max_batch_size) if self._pad else sorted({1, max_batch_size})
        self._check_shapes()

    def run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Map a batch of the manifest's input to logits (B, num_classes)."""
        manifest = self._bundle.manifest
        rows = len(batch)
        if self._pad and rows not in self.warm_sizes:
            batch = self._padded(batch)
        logits: NDArray[np.float32] = self._session.run([manifest.output.name], {manifest.input.name: batch})[0]
        return logits[:rows]

    def warm_up(self, sizes: Sequence[int] | None = None) -> None:
        """Run every size that must be warm (or `sizes`), so that the first caller does not pay for it.

        Raises:
            StartFailed: the model cannot run, or does not answer one finite row for each it is given.
        """
        manifest = self._bundle.manifest
        for size in sizes or self.warm_sizes:
            try:
                logits = self.run(np.zeros((size, *manifest.input.shape), manifest.input.dtype))
            except Exception as error:
                raise StartFailed(
                    f"{self._bundle.model_path}: warm-up at batch {size} failed: {_line(error)}"
                ) from error
            expected = (size, *manifest.output.shape)
            if logits.shape != expected or not np.isfinite(logits).all():
                raise StartFailed(
                    f"{self._bundle.model_path}: expected finite logits {expected} in warm-up, found {logits.shape}"
                )

    def _padded(self, batch: NDArray[Any]) -> NDArray[Any]:
        bucket = min((size for size in self.warm_sizes if size > len(batch)), default=len(batch))
        padded = np.zeros((bucket, *batch.shape[1:]), batch.dtype)
        padded[: len(batch)] = batch
        return padded

    def _open_best(self) -> onnxruntime.InferenceSession:
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            try:
                return self._open(_PROVIDERS["cuda"])
            except StartFailed as error:
                log.warning("provider auto: no CUDA (%s); using the CPU", error)
        return self._open(_PROVIDERS["cpu"])

    def _open(self, providers: list[str]) -> onnxruntime.InferenceSession:
        available = onnxruntime.get_available_providers()
        if providers[0] not in available:
            raise StartFailed(
                f"provider: expected {providers[0]}, found only {', '.join(available)} in this installation"
            )
        if providers[0] != "CPUExecutionProvider":
            onnxruntime.preload_dlls()  # the CUDA and cuDNN libraries of the NVIDIA wheels
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._intra_op_num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors; what concerns us is checked below
        try:
            session = onnxruntime.InferenceSession(self._bundle.model_path, options, providers=providers)
        except Exception as error:
            raise StartFailed(
                f"{self._bundle.model_path}: expected a model that {providers[0]} loads, found: {_line(error)}"
            ) from error
        # ONNX Runtime falls back to the CPU by itself (microsoft/onnxruntime#23372), so look at what it gave.
        found = session.get_providers()
        if found[: len(providers)] != providers:
            raise StartFailed(f"provider: expected {', '.join(providers)}, found {', '.join(found)}")
        return session

    def _check_shapes(self) -> None:
        manifest = self._bundle.manifest
        for role, expected, values in (
            ("input", manifest.input, self._session.get_inputs()),
            ("output", manifest.output, self._session.get_outputs()),
        ):
            found = [(value.name, value.type, tuple(value.shape[1:])) for value in values]
            wanted = [(expected.name, _TENSOR_TYPES[expected.dtype], expected.shape)]
            if found != wanted:
                raise StartFailed(f"{self._bundle.model_path}: expected the {role} {wanted[0]}, found {found}")


def _buckets(max_batch_size: int) -> list[int]:
    """1, 2, 4, 8, … and the largest: a new shape costs CUDA a search and TensorRT an engine, a padded row little."""
    return [*(1 << power for power in range((max_batch_size - 1).bit_length())), max_batch_size]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
