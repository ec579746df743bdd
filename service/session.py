"""A bundle --> a callable model on the execution provider that was asked for, or no start at all."""

import logging
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from bundle.bundle import Bundle
from bundle.manifest import AttentionMap
from service import providers
from service.errors import ProviderMissing, StartFailed
from service.settings import ProviderName, Settings

_TENSOR_TYPES = {"float32": "tensor(float)", "float16": "tensor(float16)", "uint8": "tensor(uint8)"}
log = logging.getLogger("aaserve")


class OnnxSession:
    """One loaded model; `run` computes in the thread that calls it, without the interpreter lock.

    Any number of threads may call it at once, and the weights are held once for all of them.

    Where each new shape costs a search or an engine, batches are padded to sizes that are warm.

    Args:
        threads: that share one call, on the CPU.
        fixed_shapes: whether to do so; by default on GPUs.

    Raises:
        StartFailed: the provider is not to be had, or the model is not what its manifest says; one line.
    """

    def __init__(
        self, bundle: Bundle, settings: Settings, *, threads: int = 1, fixed_shapes: bool | None = None
    ) -> None:
        onnxruntime.disable_telemetry_events()  # on Windows; elsewhere bundle.telemetry has prevented it
        self._bundle = bundle
        self._settings = settings
        self._threads = threads
        self._session = self._open_best() if settings.provider == "auto" else self._open(settings.provider)
        self.provider: str = self._session.get_providers()[0]
        self.on_cpu = self.provider == "CPUExecutionProvider"
        self._fixed_shapes = not self.on_cpu if fixed_shapes is None else fixed_shapes
        largest = settings.max_batch_size
        self.warm_sizes = _buckets(largest) if self._fixed_shapes else sorted({1, largest})
        self._check_shapes()

    def run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Map a batch of the manifest's input to logits (B, num_classes)."""
        manifest = self._bundle.manifest
        rows = len(batch)
        if self._fixed_shapes:
            size = min((size for size in self.warm_sizes if size >= rows), default=rows)
            if size > rows:
                batch = np.concatenate([batch, np.zeros((size - rows, *batch.shape[1:]), batch.dtype)])
        logits: NDArray[np.float32] = self._session.run([manifest.output.name], {manifest.input.name: batch})[0]
        return logits[:rows]

    def attention(self, row: NDArray[Any], layers: Sequence[AttentionMap]) -> dict[str, NDArray[np.floating]]:
        """Map one row of the manifest's input to the attention maps (heads, queries, keys) of `layers`, by their names.

        The graph computes them anyway; only here are they fetched.
        """
        manifest = self._bundle.manifest
        maps = self._session.run([layer.output for layer in layers], {manifest.input.name: row[np.newaxis]})
        return {layer.layer: found[0] for layer, found in zip(layers, maps, strict=True)}

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

    def seconds_of_one_row(self) -> float:
        """How long a call takes, at its fastest: whatever else runs can only slow it down."""
        manifest = self._bundle.manifest
        row = np.zeros((1, *manifest.input.shape), manifest.input.dtype)

        def call() -> float:
            started = perf_counter()
            self.run(row)
            return perf_counter() - started

        return min(call() for _ in range(3))

    def _open_best(self) -> onnxruntime.InferenceSession:
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            try:
                return self._open("cuda")
            except StartFailed as error:
                log.warning("provider auto: no CUDA (%s); using the CPU", error)
        return self._open("cpu")

    def _open(self, provider: ProviderName) -> onnxruntime.InferenceSession:
        names = providers.NAMES[provider]
        available = onnxruntime.get_available_providers()
        if names[0] not in available:
            raise ProviderMissing(
                f"provider: expected {names[0]}, found only {', '.join(available)} in this installation"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        spinning = self._settings.intra_op_spinning and provider == "cpu"  # beside a GPU it would only be in the way
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        options.log_severity_level = 4  # its errors are raised too; its own lines could stall in a pipe and are no JSON
        if provider != "cpu":
            onnxruntime.preload_dlls()  # the CUDA and cuDNN libraries of the NVIDIA wheels
            options.intra_op_num_threads = 1
            options.add_session_config_entry(
                "session.intra_op.allow_spinning", "0"
            )  # the GPU works, decoding needs them
        try:
            wanted = providers.with_options(provider, self._bundle.manifest, self._settings)
            # Without it, onnxruntime itself goes on with the CPU where a provider fails, at any call, and prints that.
            session = onnxruntime.InferenceSession(
                self._bundle.model_path, options, providers=wanted, enable_fallback=0
            )
        except Exception as error:
            raise StartFailed(
                f"{self._bundle.model_path}: expected a model that {names[0]} loads, found: {_line(error)}"
            ) from error
        # ONNX Runtime falls back to the CPU by itself (microsoft/onnxruntime#23372), so look at what it gave.
        found = session.get_providers()
        if found[: len(names)] != names:
            raise ProviderMissing(f"provider: expected {', '.join(names)}, found {', '.join(found)}")
        return session

    def _check_shapes(self) -> None:
        manifest = self._bundle.manifest
        wanted_inputs: list[tuple[str, str, tuple[int, ...]]] = [
            (manifest.input.name, manifest.input.dtype, manifest.input.shape)
        ]
        wanted_outputs: list[tuple[str, str, tuple[int, ...]]] = [
            (manifest.output.name, manifest.output.dtype, manifest.output.shape),
            *((maps.output, maps.dtype, maps.shape) for maps in manifest.attention),
        ]
        for role, expected, values in (
            ("input", wanted_inputs, self._session.get_inputs()),
            ("output", wanted_outputs, self._session.get_outputs()),
        ):
            found = [(value.name, value.type, tuple(value.shape[1:])) for value in values]
            wanted = [(name, _TENSOR_TYPES[dtype], shape) for name, dtype, shape in expected]
            if found != wanted:
                words = ", ".join(map(str, wanted))
                raise StartFailed(f"{self._bundle.model_path}: expected the {role} {words}, found {found}")


def _buckets(max_batch_size: int) -> list[int]:
    """1, 2, 4, 8, … and the largest: a new shape costs CUDA a search and TensorRT an engine, a padded row little."""
    return [*(1 << power for power in range((max_batch_size - 1).bit_length())), max_batch_size]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
