"""Gives every Resize its scales as constants, in the place of a size that is computed from the batch's.

PyTorch asks for a height and a width, and ONNX wants the size of all axes, so the number of rows is looked up first.
That happens on the host, and a GPU waits for it; nor can a graph that does so be replayed as a CUDA graph.
"""

import onnx_ir as ir


def fix_scales(model: ir.Model) -> None:
    """Rewrite `model` in place, where height and width become a whole number of times as large."""
    for node in model.graph:
        if node.op_type == "Resize" and (scales := _scales(node)):
            name = f"{node.outputs[0].name}_scales"
            constant = ir.Value(name=name, const_value=ir.tensor(scales, dtype=ir.DataType.FLOAT, name=name))
            model.graph.register_initializer(constant)
            node.replace_input_with(2, constant)
            node.resize_inputs(3)


def _scales(node: ir.Node) -> list[float] | None:
    """Of (B, C, H, W), in which batch and channels stay."""
    if len(node.inputs) < 4 or node.inputs[3] is None:
        return None
    (_, _, *before), (_, _, *after) = node.inputs[0].shape, node.outputs[0].shape
    whole = all(isinstance(b, int) and isinstance(a, int) and a % b == 0 for b, a in zip(before, after, strict=True))
    return [1.0, 1.0, *(a / b for b, a in zip(before, after, strict=True))] if whole else None
