"""A bundle --> a callable model on the execution provider that was asked for, or no start at all."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from aaserve.bundle.bundle import MODEL_FILE, Bundle
from aaserve.service.engine.runtime import providers
from aaserve.service.engine.runtime.memory_file import model_file
from aaserve.service.engine.runtime.model_session import Declared, ModelSession, line
from aaserve.service.errors import ProviderMissing, StartFailed
from aaserve.service.settings import ProviderName, Settings

_FATAL = 4  # of ONNX Runtime's severities
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int64)": "int64",
}
log = logging.getLogger("aaserve")


class OnnxSession(ModelSession):
    """A model in ONNX Runtime.

    On GPUs batches are padded to sizes that are warm, and with CUDA each of these has a session of its own: a session
    plans all its convolutions anew whenever the shape is not that of the call before (docs/decisions/0023).

    Args:
        threads: that share one call, on the CPU.
        fixed_shapes: whether to do so; by default on GPUs.

    Raises:
        StartFailed: the provider is not to be had, or the model is not what its manifest says; one line.
        BundleError: the model's file is no longer the one that was checked.
    """

    def __init__(
        self, bundle: Bundle, settings: Settings, *, threads: int = 1, fixed_shapes: bool | None = None
    ) -> None:
        onnxruntime.disable_telemetry_events()  # on Windows; elsewhere bundle.telemetry has prevented it
        # What goes wrong is raised too; lines of its own could stall in a pipe, and are no JSON.
        onnxruntime.set_default_logger_severity(_FATAL)
        super().__init__(bundle)
        self.precision = bundle.manifest.precision
        self._settings = settings
        self._threads = threads
        # TensorRT names its engines after the model's file, so that file cannot have a number for a name.
        with model_file(bundle, as_path=settings.provider != "tensorrt") as model:
            session = self._open_best(model) if settings.provider == "auto" else self._open(settings.provider, model)
            self._check_declared(_declared(session.get_inputs()), _declared(session.get_outputs()))
            self.provider = session.get_providers()[0]
            self.on_cpu = self.provider == "CPUExecutionProvider"
            self._fixed_shapes = not self.on_cpu if fixed_shapes is None else fixed_shapes
            largest = settings.max_batch_size
            self.warm_sizes = _buckets(largest) if self._fixed_shapes else [1]
            self._sessions = dict.fromkeys(self.warm_sizes, session)
            if self._fixed_shapes and self.provider != "TensorrtExecutionProvider":  # whose engine is for all sizes
                self._sessions |= self._open_others(self.warm_sizes[1:], model)
        if not self.on_cpu and (nodes := left_to_the_cpu(session)):
            log.warning("%s: on the CPU instead of %s: %s", bundle.model_path, self.provider, ", ".join(nodes))

    def run(self, batch: NDArray[Any], names: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
        names = names or self._names
        rows = len(batch)
        size = next((size for size in self.warm_sizes if size >= rows), self.warm_sizes[-1])
        if self._fixed_shapes and size > rows:
            batch = np.concatenate([batch, np.zeros((size - rows, *batch.shape[1:]), batch.dtype)])
        found = self._sessions[size].run(names, {self._bundle.manifest.input.name: batch})
        return {name: values[:rows] for name, values in zip(names, found, strict=True)}

    def warm_up(self, sizes: Sequence[int] | None = None) -> None:
        if not self._fixed_shapes:
            super().warm_up(sizes)
            return
        sizes = sizes or self.warm_sizes  # each in a session of its own, and most of it is planning in a single core
        with ThreadPoolExecutor(len(sizes)) as pool:
            list(pool.map(self._warm_up, reversed(sizes)))

    def _open_best(self, model: str | bytes) -> onnxruntime.InferenceSession:
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            try:
                return self._open("cuda", model)
            except StartFailed as error:
                log.warning("provider auto: no CUDA (%s); using the CPU", error)
        return self._open("cpu", model)

    def _open_others(self, sizes: Sequence[int], model: str | bytes) -> dict[int, onnxruntime.InferenceSession]:
        """Sessions of the same provider, all at once: opening one keeps a single core busy."""
        [name] = [name for name, names in providers.NAMES.items() if names[0] == self.provider]
        with ThreadPoolExecutor() as pool:
            return dict(zip(sizes, pool.map(lambda _: self._open(name, model), sizes), strict=True))

    def _open(self, provider: ProviderName, model: str | bytes) -> onnxruntime.InferenceSession:
        names = providers.NAMES[provider]
        available = onnxruntime.get_available_providers()
        if names[0] not in available:
            raise ProviderMissing(
                f"provider: expected {names[0]}, found only {', '.join(available)} in this installation"
            )
        options = onnxruntime.SessionOptions()
        on_cpu = provider == "cpu"
        options.intra_op_num_threads = self._threads if on_cpu else 1
        options.inter_op_num_threads = 1
        spinning = self._settings.intra_op_spinning and on_cpu  # beside a GPU it would only be in the way
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        options.log_severity_level = _FATAL
        if not on_cpu:
            onnxruntime.preload_dlls()  # the CUDA and cuDNN libraries of the NVIDIA wheels
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            wanted = providers.with_options(provider, self._bundle.manifest, self._settings)
            # Without it, onnxruntime itself goes on with the CPU where a provider fails, at any call, and prints that.
            session = onnxruntime.InferenceSession(model, options, providers=wanted, enable_fallback=0)
        except Exception as error:
            reason = line(error) if isinstance(model, bytes) else line(error).replace(model, MODEL_FILE)
            raise StartFailed(
                f"{self._bundle.model_path}: expected a model that {names[0]} loads, found: {reason}"
            ) from error
        # ONNX Runtime falls back to the CPU by itself (microsoft/onnxruntime#23372), so look at what it gave.
        found = session.get_providers()
        if found[: len(names)] != names:
            raise ProviderMissing(f"provider: expected {', '.join(names)}, found {', '.join(found)}")
        return session


def _declared(values: Sequence[Any]) -> list[Declared]:
    return [(value.name, _DTYPES.get(value.type, value.type), tuple(value.shape[1:])) for value in values]


def left_to_the_cpu(session: onnxruntime.InferenceSession) -> list[str]:
    """Operator and name of each node that the CPU computes; between it and a GPU, tensors are copied at each call."""
    parts = session.get_provider_graph_assignment_info()
    return sorted(
        f"{node.op_type} {node.name}"
        for part in parts
        if part.ep_name == "CPUExecutionProvider"
        for node in part.get_nodes()
    )


def _buckets(max_batch_size: int) -> list[int]:
    """1, 2, 4, 8, … and the largest: a padded row costs little."""
    return [*(1 << power for power in range((max_batch_size - 1).bit_length())), max_batch_size]
