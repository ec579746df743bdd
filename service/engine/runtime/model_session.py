"""What every runtime's session has: warm-up, the check of what the graph declares, the time of one row.

Knows no runtime: `session.py` is ONNX Runtime's, `openvino_session.py` OpenVINO's.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aaserve.bundle.bundle import Bundle
from aaserve.service.errors import StartFailed

Declared = tuple[str, str, tuple[int | str | None, ...]]  # name, type, shape without the batch axis


class ModelSession(ABC):
    """One loaded model; `run` computes in the thread that calls it, without the interpreter lock.

    Any number of threads may call it at once, and on the CPU the weights are held once for all of them.
    """

    provider: str  # as metrics and the model card name it
    on_cpu: bool
    precision: str  # of the arithmetic: the bundle's, or what the settings lower it to
    warm_sizes: list[int]

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._names = bundle.manifest.output_names

    @abstractmethod
    def run(self, batch: NDArray[Any], names: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
        """Map a batch of the manifest's input to the outputs of these names, each (B, ...), or to those of the task.

        The graph computes all of them anyway; only the named ones are fetched.
        """

    def in_fp32(self) -> "ModelSession | None":
        """The same model in full precision, to compare this one with; None if this one is not below that of its file.

        Raises:
            StartFailed: as when it was opened.
        """
        return None

    def only_one_row(self) -> None:
        """From now on every call has a single row: compile the model for that, if this runtime gains by it."""
        self.warm_sizes = [1]

    def warm_up(self, sizes: Sequence[int] | None = None) -> None:
        """Run every size that must be warm (or `sizes`), so that the first caller does not pay for it.

        Raises:
            StartFailed: the model cannot run, or does not answer one finite row for each it is given.
        """
        for size in sizes or self.warm_sizes:
            self._warm_up(size)

    def _warm_up(self, size: int) -> None:
        manifest = self._bundle.manifest
        try:
            outputs = self.run(np.zeros((size, *manifest.input.shape), manifest.input.dtype))
        except Exception as error:
            raise StartFailed(f"{self._bundle.model_path}: warm-up at batch {size} failed: {line(error)}") from error
        for output in manifest.outputs:
            expected, values = (size, *output.shape), outputs[output.name]
            if values.shape != expected or not np.isfinite(values).all():
                raise StartFailed(
                    f"{self._bundle.model_path}: expected finite {output.name} {expected} in warm-up, "
                    f"found {values.shape}"
                )

    def seconds_of_one_row(self) -> float:
        """How long a call takes, the fastest of a few: other work on the machine can only slow it down."""
        manifest = self._bundle.manifest
        row = np.zeros((1, *manifest.input.shape), manifest.input.dtype)

        def call() -> float:
            started = perf_counter()
            self.run(row)
            return perf_counter() - started

        return min(call() for _ in range(3))

    def _check_declared(self, inputs: Sequence[Declared], outputs: Sequence[Declared]) -> None:
        """Raise StartFailed unless the graph declares what the manifest says."""
        manifest = self._bundle.manifest
        for role, wanted, found in (("input", [manifest.input], inputs), ("output", manifest.all_outputs, outputs)):
            expected = [(tensor.name, tensor.dtype, tensor.shape) for tensor in wanted]
            if list(found) != expected:
                words = ", ".join(map(str, expected))
                raise StartFailed(f"{self._bundle.model_path}: expected the {role} {words}, found {list(found)}")


def line(error: Exception) -> str:
    """An error's message in one line."""
    return " ".join(str(error).split())
