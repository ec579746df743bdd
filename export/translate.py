"""How PyTorch's attention becomes ONNX: two products and a softmax, nothing else.

PyTorch's own translation rebuilds shapes at run time to transpose the keys, and multiplies by a scale of one.
"""

from typing import Any

from onnxscript import opset20 as op
from onnxscript.onnx_types import TensorType

from export.errors import ExportError


def scaled_dot_product_attention(
    query: TensorType,
    key: TensorType,
    value: TensorType,
    attn_mask: TensorType | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Translate (B, Nh, N, d), (B, Nh, N, d), (B, Nh, N, e) to (B, Nh, N, e), as `models.attention` calls it."""
    if attn_mask is not None or is_causal or enable_gqa or scale != 1.0:
        raise ExportError("attention with a mask or a scale other than 1 is not translated")
    logits = op.MatMul(query, op.Transpose(key, perm=[0, 1, 3, 2]))  # (B, Nh, N, N)
    return op.MatMul(op.Softmax(logits, axis=-1), value)
