"""Rewrite rules that remove every BatchNormalization from a graph.

    BatchNormalization(Conv(x))        -->  Conv(x), with the factor in its weights and the summand in its bias
    BatchNormalization(Resize(x))      -->  Resize(BatchNormalization(x))
    BatchNormalization(Concat(a, b))   -->  Concat(BatchNormalization(a), BatchNormalization(b))
    BatchNormalization(x)              -->  Conv(x), 1x1 depthwise

The first rule is onnxscript's. The next two move a normalisation to its Conv, as in augmented convolutions. The last
one is for the rest, such as the first normalisation of a pre-activation block: ONNX Runtime fuses a Conv, but not a
BatchNormalization, with the Relu after it.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import RewriteRuleClassBase, RewriteRuleSet
from onnxscript.rewriter.rules.common import fuse_batchnorm_into_conv_rule


class _ThroughResize(RewriteRuleClassBase):
    """Valid for linear interpolation, whose weights sum to one."""

    def pattern(self, op: Any, x: ir.Value, gamma: ir.Value, beta: ir.Value, mean: ir.Value, var: ir.Value) -> Any:
        resized = op.Resize(x, mode="linear", _allow_other_inputs=True, _outputs=["resized"])
        return op.BatchNormalization(resized, gamma, beta, mean, var, _outputs=["normalised"])

    def check(self, context: Any, x: ir.Value, **_: Any) -> bool:
        return _fuses_into_conv(x)

    def rewrite(
        self, op: Any, x: ir.Value, resized: ir.Value, normalised: ir.Value, **parameters: ir.Value
    ) -> ir.Value:
        resize = resized.producer()
        x = op.BatchNormalization(x, *parameters.values(), **normalised.producer().attributes)
        return op.Resize(x, *resize.inputs[1:], **resize.attributes)


class _ThroughConcat(RewriteRuleClassBase):
    """Each part gets its share of the channels' parameters."""

    def pattern(self, op: Any, gamma: ir.Value, beta: ir.Value, mean: ir.Value, var: ir.Value) -> Any:
        joined = op.Concat(axis=1, _allow_other_inputs=True, _outputs=["joined"])
        return op.BatchNormalization(joined, gamma, beta, mean, var, _outputs=["normalised"])

    def check(self, context: Any, joined: ir.Value, normalised: ir.Value, **parameters: ir.Value) -> bool:
        parts = joined.producer().inputs
        return _constant(parameters) and all(_fuses_into_conv(part) and part.shape is not None for part in parts)

    def rewrite(self, op: Any, joined: ir.Value, normalised: ir.Value, **parameters: ir.Value) -> ir.Value:
        parts, start = [], 0
        for part in joined.producer().inputs:
            end = start + part.shape[1]
            shares = [
                op.initializer(ir.tensor(value.const_value.numpy()[start:end]), name=f"{part.name}.{name}")
                for name, value in parameters.items()
            ]
            parts.append(op.BatchNormalization(part, *shares, **normalised.producer().attributes))
            start = end
        return op.Concat(*parts, axis=1)


class _AsDepthwiseConv(RewriteRuleClassBase):
    """Or a product and a sum, for (B, C) and (B, C, L), which are not feature maps."""

    def pattern(self, op: Any, x: ir.Value, gamma: ir.Value, beta: ir.Value, mean: ir.Value, var: ir.Value) -> Any:
        return op.BatchNormalization(x, gamma, beta, mean, var, _outputs=["normalised"])

    def check(self, context: Any, x: ir.Value, normalised: ir.Value, **parameters: ir.Value) -> bool:
        return x.shape is not None and _constant(parameters)

    def rewrite(self, op: Any, x: ir.Value, normalised: ir.Value, **parameters: ir.Value) -> ir.Value:
        gamma, beta, mean, var = (value.const_value.numpy() for value in parameters.values())
        scale = gamma / np.sqrt(var + normalised.producer().attributes.get_float("epsilon", 1e-5))
        if len(x.shape) != 4:
            shape = (len(scale), *[1] * (len(x.shape) - 2))
            times, plus = (ir.tensor(value.reshape(shape)) for value in (scale, beta - mean * scale))
            product = op.Mul(x, op.initializer(times, name=f"{normalised.name}.scale"))
            return op.Add(product, op.initializer(plus, name=f"{normalised.name}.shift"))
        weight = op.initializer(ir.tensor(scale[:, None, None, None]), name=f"{normalised.name}.scale")
        bias = op.initializer(ir.tensor(beta - mean * scale), name=f"{normalised.name}.shift")
        return op.Conv(x, weight, bias, group=len(scale))


def _constant(parameters: dict[str, ir.Value]) -> bool:
    return all(value.const_value is not None for value in parameters.values())


def _fuses_into_conv(value: ir.Value) -> bool:
    """True if a BatchNormalization of `value` can be fused into the Conv that computes it, through a Resize or not."""
    node = value.producer()
    if node is None or len(value.uses()) != 1 or value.is_graph_output():
        return False
    return node.op_type == "Conv" or (node.op_type == "Resize" and _fuses_into_conv(node.inputs[0]))


RULES = RewriteRuleSet(
    [fuse_batchnorm_into_conv_rule, _ThroughResize.rule(), _ThroughConcat.rule(), _AsDepthwiseConv.rule()]
)
