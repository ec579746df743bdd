"""Initial weights, drawn the same way for every network."""

from torch import nn


def initialise(network: nn.Module) -> None:
    """Draw convolutions from He et al. 2015's normal distribution (fan-out); the rest keeps PyTorch's defaults."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
