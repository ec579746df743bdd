"""Floating-point operations of one image, in the paper's convention and in the plain one.

                                      paper         plain
    convolutions, linear layers     2 per MAC     2 per MAC
    attention, QK^T and AV          1 per MAC     2 per MAC
    attention, relative logits      not counted   2 per MAC

A MAC is a multiply-add. Normalisation, activations, pooling, softmax and upsampling are not counted. The paper's
convention is inferred: it reproduces seven of eight published figures to the printed digit (docs/networks.md).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from aaserve.models.attention import AttentionAugmentedConv2d
from aaserve.models.attention.position import RelativePosition


class Flops(NamedTuple):
    """Operations for one image; divide by 1e9 for GFLOPs."""

    paper: int
    plain: int


def count_flops(network: nn.Module, image_size: tuple[int, int]) -> Flops:
    """Count the operations of `network` for one (1, 3, *image_size) image; on the meta device nothing is computed."""
    layers = content = relative = 0

    def add_layer(module: nn.Conv2d | nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal layers
        layers += output.numel() * module.weight[0].numel()

    def add_attention(module: AttentionAugmentedConv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal layers, content, relative
        height, width = module.feature_size
        positions = height * width
        layers += positions * module.qkv.weight.numel()  # the layer uses the weight directly, so no hook runs
        content += positions**2 * (module.key_channels + module.value_channels)
        if isinstance(module.position, RelativePosition):
            # Each query is multiplied with one embedding per key row and one per key column.
            relative += positions * (height + width) * module.key_channels

    hooks = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            hooks.append(module.register_forward_hook(add_layer))
        elif isinstance(module, AttentionAugmentedConv2d):
            hooks.append(module.register_forward_hook(add_attention))
    was_training = network.training
    parameter = next(network.parameters())
    try:
        network.eval()
        with torch.no_grad():
            network(torch.zeros(1, 3, *image_size, dtype=parameter.dtype, device=parameter.device))
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    return Flops(paper=2 * layers + content, plain=2 * (layers + content + relative))
