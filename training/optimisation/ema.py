"""Averaged weights (Polyak & Juditsky 1992), which generalise better than the weights of the last step."""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of parameters and of the statistics of batch normalisation."""
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
