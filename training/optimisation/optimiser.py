"""SGD with Nesterov momentum, or AdamW; and averaged weights."""

from fnmatch import fnmatchcase

from torch import nn
from torch.nn.parameter import Parameter
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from aaserve.training.recipe import Optimisation


def create_optimiser(network: nn.Module, settings: Optimisation) -> Optimizer:
    """schedule.py sets learning rate and momentum before each step; parameters without a learning rate are frozen.

    Raises:
        ValueError: a pattern of `settings.learning` matches no parameter.
    """
    groups = _parameter_groups(network, settings)
    if settings.optimiser == "adamw":
        return AdamW(groups, lr=settings.max_learning_rate, betas=(settings.momentum, 0.999))
    return SGD(groups, lr=settings.max_learning_rate, momentum=settings.momentum, nesterov=settings.momentum > 0)


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of parameters and of the statistics of batch normalisation.

    Averaged weights generalise better than those of the last step (Polyak & Juditsky 1992).
    """
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def _parameter_groups(network: nn.Module, settings: Optimisation) -> list[dict]:
    """Weight decay for kernels only, not for normalisation, biases and position embeddings."""
    learning = settings.learning or {"*": 1.0}
    groups: dict[tuple[float, float], list[Parameter]] = {(1.0, settings.weight_decay): [], (1.0, 0.0): []}
    unused = set(learning)
    for name, parameter in network.named_parameters():
        fitting = [pattern for pattern in learning if fnmatchcase(name, pattern)]
        unused -= set(fitting)
        if not fitting:
            parameter.requires_grad_(False)
            continue
        decay = 0.0 if parameter.ndim < 2 or "key_rel" in name else settings.weight_decay
        groups.setdefault((learning[fitting[0]], decay), []).append(parameter)
    if unused:
        raise ValueError(f"optimisation.learning: no parameter's name matches {', '.join(sorted(unused))}")
    return [
        {"params": parameters, "weight_decay": decay, "rate": rate}
        for (rate, decay), parameters in groups.items()
        if parameters
    ]
