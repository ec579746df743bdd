"""A bundle --> a callable model in OpenVINO, on the CPU."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from aaserve.bundle.bundle import MODEL_FILE, Bundle
from aaserve.service.engine.runtime import openvino_runtime
from aaserve.service.engine.runtime.model_session import Declared, ModelSession, line
from aaserve.service.errors import ProviderMissing, StartFailed
from aaserve.service.settings import Settings
from aaserve.service.threads import INFERENCE, lower_priority

if TYPE_CHECKING:
    from openvino import CompiledModel, ConstOutput, InferRequest

PROVIDER = "OpenVINO"
_INSTALL = "pip install --constraint constraints.txt '.[cpu,openvino]'"


class OpenVinoSession(ModelSession):
    """A model in OpenVINO, whose own threads compute while the caller waits.

    Args:
        threads: that share one call. With one, as many calls run side by side as `intra_op_num_threads` says.

    Raises:
        ProviderMissing: OpenVINO is not installed, or this processor does not have the precision; one line.
        StartFailed: the model is not what its manifest says, or OpenVINO cannot compile it; one line.
        BundleError: the model's file is no longer the one that was checked.
    """

    provider = PROVIDER
    on_cpu = True

    def __init__(self, bundle: Bundle, settings: Settings, *, threads: int = 1) -> None:
        super().__init__(bundle)
        self.precision = bundle.manifest.precision if settings.cpu_precision == "fp32" else settings.cpu_precision
        _check_available(settings)
        self._settings = settings
        self._threads = threads
        self._streams = settings.intra_op_num_threads if threads == 1 else 1
        self.warm_sizes = [1]
        self._compile()
        outputs = {output.name for output in bundle.manifest.all_outputs}
        self._check_declared(
            [_declared(port, {bundle.manifest.input.name}) for port in self._compiled.inputs],
            [_declared(port, outputs) for port in self._compiled.outputs],
        )

    def run(self, batch: NDArray[Any], names: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
        request = self._idle.pop() if self._idle else self._compiled.create_infer_request()
        request.infer({self._bundle.manifest.input.name: batch}, share_inputs=True, share_outputs=True)
        # Copies, as the request's own tensors are overwritten by its next call.
        outputs = {name: np.array(request.get_tensor(name).data) for name in names or self._names}
        self._idle.append(request)  # one that has failed is not used again
        return outputs

    def warm_up(self, sizes: Sequence[int] | None = None) -> None:
        """Run each size once for every stream: each of them prepares the graph for itself."""
        with ThreadPoolExecutor(self._streams) as pool:
            for size in sizes or self.warm_sizes:
                list(pool.map(self._warm_up, [size] * self._streams))

    def in_fp32(self) -> "OpenVinoSession | None":
        if self._settings.cpu_precision == "fp32":
            return None
        exact = self._settings.model_copy(update={"cpu_precision": "fp32", "intra_op_num_threads": 1})
        return OpenVinoSession(self._bundle, exact)

    def only_one_row(self) -> None:
        self._compile(rows=1)

    def _compile(self, rows: int | None = None) -> None:
        """Compile for calls of so many rows, or of any number."""
        compile_model = partial(
            openvino_runtime.compiled,
            self._bundle.content(MODEL_FILE),
            precision=self._settings.cpu_precision,
            streams=self._streams,
            threads=max(self._threads, self._streams),
            rows=rows,
        )
        try:
            # Its threads inherit their priority from the one that compiles.
            with ThreadPoolExecutor(1, initializer=lower_priority, initargs=(INFERENCE,)) as thread:
                self._compiled: CompiledModel = thread.submit(compile_model).result()
        except Exception as error:
            raise StartFailed(
                f"{self._bundle.model_path}: expected a model that OpenVINO compiles, found: {line(error)}"
            ) from error
        self._idle: list[InferRequest] = []  # as many as there were calls at once


def _check_available(settings: Settings) -> None:
    try:
        openvino_runtime.core()
    except ImportError as error:
        raise ProviderMissing(
            f"provider: expected the extra openvino ({_INSTALL}), found no module {error.name}"
        ) from error
    if settings.cpu_precision == "bf16" and not openvino_runtime.has_bf16():
        raise ProviderMissing("cpu_precision: expected a processor with instructions for bf16, found none")


def _declared(port: "ConstOutput", wanted: set[str]) -> Declared:
    """A port has all the names that its value has in the graph."""
    names = port.get_names()
    name = next(iter(names & wanted), None) or min(names, default="")
    shape = tuple(
        dimension.get_length() if dimension.is_static else str(dimension)
        for dimension in list(port.get_partial_shape())[1:]
    )
    return name, cast(np.dtype[Any], port.get_element_type().to_dtype()).name, shape
