"""One step of the optimiser, and the batches for it.

pixels --augment--> images --divide--> parts --mix--> network --> loss --backward--> gradients --optimiser--> weights
"""

from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from aaserve.training.datasets.augmentation import DRAWS_PER_IMAGE, augment
from aaserve.training.datasets.mixing import draw_mix, mix
from aaserve.training.optimisation.schedule import set_schedule
from aaserve.training.run import Run


def batches(run: Run) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's share of pixels (B, H, W, 3) and classes (B,), from the run's step to the end of its epoch."""
    seed, batch_size = run.recipe.optimisation.seed, run.recipe.optimisation.batch_size
    epoch, done = divmod(run.step, run.steps)
    pictures, device = run.data.training, run.machine.device
    order = np.random.default_rng((seed, epoch)).permutation(len(pictures.classes))[: run.steps * batch_size]
    mine = list(order.reshape(run.steps, batch_size)[done:, run.share])
    for index, pixels in zip(mine, pictures.batches(mine, (seed, epoch)), strict=True):
        yield pixels.to(device), torch.from_numpy(pictures.classes[index]).to(device)


def train_step(run: Run, pixels: Tensor, classes: Tensor) -> None:
    """Move the weights by one step and count it."""
    settings, augmentation = run.recipe.optimisation, run.recipe.augmentation
    random = np.random.default_rng((settings.seed, *divmod(run.step, run.steps)))
    draws = random.random((settings.batch_size, DRAWS_PER_IMAGE))[run.share]
    how = draw_mix(augmentation, random)
    torch.manual_seed(int(random.integers(2**62)) + run.machine.rank)  # dropout, stochastic depth
    set_schedule(run.optimiser, run.step / (run.steps * settings.epochs), settings)

    in_memory = run.recipe.distillation and run.recipe.distillation.in_memory  # then `pixels` are a layer's outputs
    images = pixels if in_memory else augment(pixels, augmentation, run.recipe.preprocessing, draws)
    classes = classes.clamp(min=0)  # those of pictures without labels have no weight in the loss
    parts = list(zip(images.chunk(settings.accumulation), classes.chunk(settings.accumulation), strict=True))
    for number, (inputs, wanted) in enumerate(parts, start=1):
        if how:
            inputs, wanted = mix(inputs, wanted, how, len(run.data.labels))
        waits = run.machine.processes > 1 and number < len(parts)  # processes exchange gradients once a step
        with run.parallel.no_sync() if waits else nullcontext():
            with torch.autocast(run.machine.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                if run.teacher:
                    loss = run.teacher.loss(run.parallel, inputs, wanted) / len(parts)
                else:
                    logits = run.parallel(inputs).float()  # (B, num_classes)
                    loss = F.cross_entropy(logits, wanted, label_smoothing=settings.label_smoothing) / len(parts)
            if not loss.requires_grad:
                raise ValueError("optimisation.learning: the loss depends on no parameter that learns")
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
    """Raise ValueError if a parameter is meant to learn and the loss does not depend on it."""
    for name, parameter in run.network.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            raise ValueError(f"optimisation.learning: {name} cannot learn, since the loss does not depend on it")
