"""The last checks of a graph: is it valid, and does ONNX Runtime survive loading it?"""

import subprocess
import sys

import onnx
import onnxruntime

from aaserve.export.errors import ExportError, first_line

_LOAD = (
    "import sys, onnxruntime; onnxruntime.InferenceSession(sys.stdin.buffer.read(), providers=['CPUExecutionProvider'])"
)


def checked_bytes(model: onnx.ModelProto) -> bytes:
    """Serialise `model`. The same model gives the same bytes.

    Raises:
        ExportError: it is not valid ONNX, or uses operators that are not in the ONNX standard.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the graph is not valid ONNX: {first_line(error)}") from error
    domains = {node.domain for node in model.graph.node} | {opset.domain for opset in model.opset_import}
    if not domains <= {"", "ai.onnx"}:
        raise ExportError(f"expected standard ONNX operators only, found the domains {sorted(domains - {''})}")
    return model.SerializeToString(deterministic=True)


def check_loads(model: bytes, precision: str) -> None:
    """Return if the model loads, or fails with an exception, which the caller gets when it loads the model.

    Tried in a separate process, because a crash cannot be caught.

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
