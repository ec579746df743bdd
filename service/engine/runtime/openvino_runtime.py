"""A model's bytes --> compiled by OpenVINO for the CPU, with nothing left to its own choice.

For the service and for trials. `openvino` is an extra, so it is imported only when it is asked for; `bundle.telemetry`
keeps it from reporting that.
"""

from functools import cache
from typing import TYPE_CHECKING

import aaserve.bundle.telemetry  # noqa: F401  (before openvino, whose import would report to its makers)

if TYPE_CHECKING:
    from openvino import CompiledModel, Core

TYPES = {"fp32": "f32", "bf16": "bf16"}  # cpu_precision --> OpenVINO's name


@cache
def core() -> "Core":
    """OpenVINO itself, once for the process.

    Raises:
        ImportError: it is not installed.
    """
    from openvino import Core

    return Core()


def has_bf16() -> bool:
    """Whether this processor has instructions for bf16; without them OpenVINO would only pretend."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def compiled(model: bytes, *, precision: str, streams: int, threads: int, rows: int | None = None) -> "CompiledModel":
    """Compile an ONNX model; `streams` calls run side by side, on `threads` in all.

    Args:
        rows: of every call, if it is always the same number: OpenVINO fuses more where it knows all sizes.

    Raises:
        RuntimeError: OpenVINO cannot read or compile it.
    """
    options = {
        "INFERENCE_PRECISION_HINT": TYPES[precision],  # by itself it takes bf16 wherever the processor has it
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # by itself it rounds activations to int8 where weights are stored so
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # several models, workers and the event loop share the cores
    }
    network = core().read_model(model)
    if rows is not None:
        network.reshape({port: [rows, *list(port.partial_shape)[1:]] for port in network.inputs})
    return core().compile_model(network, "CPU", options)
