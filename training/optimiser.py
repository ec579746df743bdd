"""SGD with Nesterov momentum, or AdamW."""

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from aaserve.training.recipe import Optimisation


def create_optimiser(network: nn.Module, settings: Optimisation) -> Optimizer:
    """Learning rate and momentum are schedule.py's to set before each step."""
    groups = _parameter_groups(network, settings.weight_decay)
    if settings.optimiser == "adamw":
        return AdamW(groups, lr=settings.max_learning_rate, betas=(settings.momentum, 0.999))
    return SGD(groups, lr=settings.max_learning_rate, momentum=settings.momentum, nesterov=settings.momentum > 0)


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay for kernels only: not for normalisation, biases and position embeddings."""
    decayed, free = [], []
    for name, parameter in network.named_parameters():
        (free if parameter.ndim < 2 or "key_rel" in name else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
