"""Does ONNX Runtime survive loading this graph? Tried in a separate process, because a crash cannot be caught."""

import subprocess
import sys

import onnxruntime

from aaserve.export.errors import ExportError

_LOAD = (
    "import sys, onnxruntime; onnxruntime.InferenceSession(sys.stdin.buffer.read(), providers=['CPUExecutionProvider'])"
)


def check_loads(model: bytes, precision: str) -> None:
    """Return if the model loads, or fails with an exception, which the caller gets when it loads the model.

    ONNX Runtime 1.32 crashes while it optimises a transformer encoder in fp16, in NchwcTransformer after
    MatmulTransposeFusion.

    Raises:
        ExportError: the process that loaded it crashed.
    """
    tried = subprocess.run([sys.executable, "-c", _LOAD], input=model, capture_output=True, check=False)
    if tried.returncode < 0:
        raise ExportError(
            f"{precision}: ONNX Runtime {onnxruntime.__version__} crashes (signal {-tried.returncode}) while it loads "
            "this graph, as it does with transformer encoders; export it in fp32"
        )
