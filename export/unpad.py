"""Takes zeros out of attention that only PyTorch's kernels need: slice(P @ pad(V)) becomes P @ V."""

import onnx_ir as ir


def unpad_products(model: ir.Model) -> None:
    """Rewrite `model` in place: no MatMul pads the last axis of its right side only to slice it off afterwards."""
    for node in list(model.graph):
        if node.op_type == "Slice" and (padding := _padding(node)):
            product = node.inputs[0].producer()
            product.replace_input_with(1, padding.inputs[0])
            product.outputs[0].shape = node.outputs[0].shape
            node.outputs[0].replace_all_uses_with(product.outputs[0])
            model.graph.remove(node, safe=True)


def _padding(node: ir.Node) -> ir.Node | None:
    """The Pad that `node`, a Slice, undoes behind a MatMul."""
    product = node.inputs[0].producer()
    if product is None or product.op_type != "MatMul" or len(product.outputs[0].uses()) != 1:
        return None
    padding = product.inputs[1].producer()
    if padding is None or padding.op_type != "Pad":
        return None
    starts, ends, axes = (value.const_value.numpy().tolist() for value in node.inputs[1:4])
    unpadded = padding.inputs[0].shape
    rank = len(unpadded)
    whole = starts == [0] and ends == [unpadded[-1]] and axes[0] % rank == rank - 1
    only_at_the_end = not any(padding.inputs[1].const_value.numpy()[: 2 * rank - 1])
    return padding if whole and only_at_the_end else None
