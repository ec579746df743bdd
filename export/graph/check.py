"""The last check of a graph before it becomes bytes."""

import onnx

from aaserve.export.errors import ExportError, first_line


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
