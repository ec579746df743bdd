"""ONNX Runtime as the service opens it, with its inputs and outputs kept on the device, on PyTorch's stream.

Copies to and from the card are left out here; `service.session.OnnxSession.run`, which has them, is measured beside it.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
import torch

from aaserve.bundle.bundle import Bundle
from aaserve.service.engine.runtime import providers
from aaserve.service.settings import Settings

PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}


def open_session(
    model: Bundle, device: str, *, tf32: bool = False, cuda_graph: bool = False, **more: Any
) -> onnxruntime.InferenceSession:
    """A session of the provider `device` with the service's own options.

    Args:
        cuda_graph: capture the first call of a shape and replay it; shapes then stay, and so do buffers.
        more: options of the provider beside the service's.

    Raises:
        RuntimeError: ONNX Runtime gives another provider.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if device == "cpu":
        return onnxruntime.InferenceSession(model.model_path, options, providers=[PROVIDERS["cpu"]])
    onnxruntime.preload_dlls()  # CUDA and cuDNN lie beside PyTorch
    onnxruntime.set_default_logger_severity(4)  # cuDNN's own attempts, as in the service
    wanted = providers.with_options("cuda", model.manifest, Settings(tf32=tf32))
    own = {**wanted[0][1], "user_compute_stream": str(torch.cuda.current_stream().cuda_stream)}
    wanted = [(PROVIDERS["cuda"], {**own, "enable_cuda_graph": int(cuda_graph), **more})]
    session = onnxruntime.InferenceSession(model.model_path, options, providers=wanted, enable_fallback=0)
    if session.get_providers()[0] != PROVIDERS[device]:
        raise RuntimeError(f"expected {PROVIDERS[device]}, found {session.get_providers()}")
    return session


class Bound:
    """A session whose inputs (by name, shape and type as they stay) and first output are on the device.

    Args:
        graph: number of the CUDA graph that this is recorded as, in a session that has them.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        inputs: Mapping[str, np.ndarray],
        output: tuple[int, ...],
        *,
        graph: int | None = None,
    ) -> None:
        self._options = onnxruntime.RunOptions()
        if graph is not None:
            self._options.add_run_config_entry("gpu_graph_id", str(graph))
        on_cpu = session.get_providers()[0] == PROVIDERS["cpu"]
        place = ("cpu", 0) if on_cpu else ("cuda", 0)
        self._session = session
        self._binding = session.io_binding()
        self._values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(value, *place) for name, value in inputs.items()}
        for name, value in self._values.items():
            self._binding.bind_ortvalue_input(name, value)
        kind = {"tensor(float)": np.float32, "tensor(float16)": np.float16}[session.get_outputs()[0].type]
        # Poisoned, so that what is not written is seen.
        poison = np.full(output, np.nan, kind)
        self._output = onnxruntime.OrtValue.ortvalue_from_numpy(poison, *place)
        self._binding.bind_ortvalue_output(session.get_outputs()[0].name, self._output)

    def __call__(self) -> None:
        self._session.run_with_iobinding(self._binding, self._options)

    def answer(self) -> np.ndarray:
        """What the last call wrote."""
        return self._output.numpy()


def placement(session: onnxruntime.InferenceSession) -> dict[str, dict[str, int]]:
    """How many nodes of which kind each provider was given."""
    found: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    return {provider: dict(kinds) for provider, kinds in found.items()}
