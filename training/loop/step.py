"""One step of the optimiser, and the batches for it.

pictures --task--> batch --vary, divide--> parts --network--> loss --backward--> gradients --optimiser--> weights
"""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from aaserve.training.loop.run import Run
from aaserve.training.optimisation.schedule import set_schedule


def batches(run: Run) -> Iterator[tuple[Any, ...]]:
    """This process's share of each batch, from the run's current step to the end of the epoch, made by the task."""
    seed, batch_size = run.recipe.optimisation.seed, run.recipe.optimisation.batch_size
    epoch, done = divmod(run.step, run.steps)
    order = np.random.default_rng((seed, epoch)).permutation(len(run.data.training))[: run.steps * batch_size]
    mine = list(order.reshape(run.steps, batch_size)[done:, run.share])
    return run.task.batches(run, mine, (seed, epoch))


def train_step(run: Run, *batch: Any) -> None:
    """Move the weights by one step and count it."""
    settings = run.recipe.optimisation
    random = np.random.default_rng((settings.seed, *divmod(run.step, run.steps)))
    parts = run.task.parts(run, batch, random)
    torch.manual_seed(int(random.integers(2**62)) + run.machine.rank)  # dropout, stochastic depth
    set_schedule(run.optimiser, run.step / (run.steps * settings.epochs), settings)
    for number, part in enumerate(parts, start=1):
        waits = run.machine.processes > 1 and number < len(parts)  # processes exchange gradients once a step
        with run.parallel.no_sync() if waits else nullcontext():
            with torch.autocast(run.machine.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                loss = run.task.loss(run, *part) / len(parts)
            if not loss.requires_grad:
                raise ValueError("optimisation.learning: the loss depends on no trained parameter")
            loss.backward()
        run.loss += loss.detach()
    if run.step == 0:
        _check_gradients(run)
    run.optimiser.step()
    run.optimiser.zero_grad()
    if run.average:
        run.average.update_parameters(run.network)
    run.step += 1


def _check_gradients(run: Run) -> None:
    """Raise ValueError if the loss does not depend on a parameter that is to be trained."""
    for name, parameter in run.network.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            raise ValueError(f"optimisation.learning: {name} cannot be trained, because the loss does not depend on it")
