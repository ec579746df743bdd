"""Learning rate and momentum as functions of the share of the run that is done, so there is no state to save.

    cosine      linear from 0 to the maximum, then a half cosine to 0
    one-cycle   half cosines from 1/25 of the maximum up to it and down to 0; momentum falls by 0.1 and rises again

Sources: Loshchilov & Hutter 2017 and Goyal et al. 2017; Smith & Topin 2018 in fastai's form, with its numbers.
"""

import math

from torch.optim import Optimizer

from aaserve.training.recipe import Optimisation

START = 1 / 25  # of the maximum
MOMENTUM_DROP = 0.1


def learning_rate(done: float, settings: Optimisation) -> float:
    """At the share `done`, 0..1, of all steps."""
    rising, share = _phase(done, settings.warm_up_fraction)
    if settings.schedule == "one-cycle" and rising:
        return settings.max_learning_rate * (START + (1 - START) * _half_cosine(share))
    return settings.max_learning_rate * (share if rising else _half_cosine(1 - share))


def momentum(done: float, settings: Optimisation) -> float:
    """At the share `done`, 0..1, of all steps."""
    if settings.schedule == "cosine":
        return settings.momentum
    rising, share = _phase(done, settings.warm_up_fraction)
    return settings.momentum - MOMENTUM_DROP * _half_cosine(share if rising else 1 - share)


def set_schedule(optimiser: Optimizer, done: float, settings: Optimisation) -> float:
    """Set both for the next step, the learning rate times each group's share; return the learning rate."""
    rate, beta = learning_rate(done, settings), momentum(done, settings)
    for group in optimiser.param_groups:
        group["lr"] = rate * group["rate"]
        if "betas" in group:
            group["betas"] = (beta, group["betas"][1])
        else:
            group["momentum"] = beta
    return rate


def _phase(done: float, warm_up: float) -> tuple[bool, float]:
    """True while the rate rises, and the share of the current phase that is done."""
    return (True, done / warm_up) if done < warm_up else (False, (done - warm_up) / (1 - warm_up))


def _half_cosine(share: float) -> float:
    """From 0 to 1, slowly at both ends."""
    return (1 - math.cos(math.pi * share)) / 2
