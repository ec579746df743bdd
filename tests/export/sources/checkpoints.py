"""A small network, and its weights under other names."""

import torch
from torch import Tensor, nn

from aaserve.models import create_model


def network() -> nn.Module:
    torch.manual_seed(0)
    return create_model("aa_wide_resnet10_1", num_classes=5, image_size=16)


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in network().state_dict().items()}
