"""Operations that stay in float32 under autocast to bf16."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn


def depthwise_in_float32(network: nn.Module) -> None:
    """Compute depthwise convolutions in float32: on CPUs, PyTorch's bf16 kernels for them are slower."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.forward = partial(_without_autocast, module.forward)


def _without_autocast(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return forward(x.float())
