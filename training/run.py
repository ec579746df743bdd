"""A run in progress: everything that changes while it trains, and what it is made of.

All randomness follows from (seed, epoch, step), so there is no generator state to keep: `state` after any
step, loaded again, goes on as if nothing had happened.
"""

import hashlib
import json
from typing import Any

import torch
from torch import nn

from aaserve.models import create_model
from aaserve.training.datasets.data import Data
from aaserve.training.distillation import Teacher
from aaserve.training.log import Row
from aaserve.training.machine import Machine
from aaserve.training.optimisation.ema import averaged
from aaserve.training.optimisation.optimiser import create_optimiser
from aaserve.training.optimisation.precision import depthwise_in_float32
from aaserve.training.recipe import CommonRecipe, Recipe
from aaserve.training.task import Task
from aaserve.training.tasks import task_of
from aaserve.training.weights import read_weights, take


class Run:
    """Starts with fresh weights, drawn from the recipe's seed, or with the recipe's initial weights.

    Attributes:
        taken: what the initial weights gave.
        steps: of the optimiser in an epoch; what is left over of the images sits that epoch out.
        step: those done, of all epochs together.
        loss: sum over this epoch's steps, of this process.
        seconds: this epoch's training took so far, without evaluation.

    Raises:
        ValueError: no such architecture, options that it refuses, batches that are too large or that do not divide.
    """

    def __init__(self, recipe: CommonRecipe, data: Data, machine: Machine) -> None:
        settings = recipe.optimisation
        self.recipe, self.data, self.machine = recipe, data, machine
        self.task: Task = task_of(recipe)
        torch.manual_seed(settings.seed)
        network = _create(recipe, len(data.labels))
        self.taken = None
        if source := recipe.network.initial_weights:
            self.taken = take(network, read_weights(source), source)
        self.network = network.to(machine.device, memory_format=torch.channels_last)
        self.teacher = None
        if isinstance(recipe, Recipe) and recipe.distillation:
            self.teacher = Teacher(recipe, self.network, data, machine.device)
        if settings.precision == "bf16" and machine.device.type == "cpu":
            depthwise_in_float32(self.network)
            if self.teacher:
                depthwise_in_float32(self.teacher.network)
        if settings.batch_size % (machine.processes * settings.accumulation):
            raise ValueError(
                f"batch_size {settings.batch_size} does not divide by {machine.processes} process(es) "
                f"times accumulation {settings.accumulation}"
            )
        self.steps = len(data.training) // settings.batch_size
        if not self.steps:
            raise ValueError(f"{len(data.training)} images for training are less than one batch")
        self.optimiser = create_optimiser(self.network, settings)
        self.average = averaged(self.network, settings.ema_decay) if settings.ema_decay else None
        if machine.compiled:
            self.network.compile()
        self.parallel = machine.parallel(self.network)
        self.step = 0
        self.loss = torch.zeros((), device=machine.device, dtype=torch.float64)
        self.seconds = 0.0
        self.history: list[Row] = []

    @property
    def tested(self) -> nn.Module:
        """The network that is evaluated and kept: the averaged one, if there is one."""
        return self.average.module if self.average else self.network

    def train_mode(self) -> None:
        """Dropout and stochastic depth work; batch normalisation measures, unless its statistics are frozen."""
        self.network.train()
        if self.recipe.optimisation.frozen_statistics:
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    @property
    def share(self) -> slice:
        """The rows of a batch that this process trains with."""
        size = self.recipe.optimisation.batch_size // self.machine.processes
        return slice(self.machine.rank * size, (self.machine.rank + 1) * size)

    def state(self) -> dict[str, Any]:
        """Everything `load` needs. All processes call it together.

        Raises:
            FloatingPointError: the loss is not finite; such a state is not worth keeping.
        """
        self.loss = self.machine.sum(self.loss) / self.machine.processes
        self.check_loss()
        return {
            "recipe": self.recipe.model_dump_json(),
            "data": self._fingerprint(),
            "machine": str(self.machine),
            "step": self.step,
            "loss": self.loss.item(),
            "seconds": self.seconds,
            "history": self.history,
            "network": self.network.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimiser": self.optimiser.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> str:
        """Take over what `state` returned; the machine it was made on.

        Raises:
            ValueError: it belongs to another recipe or to other data.
        """
        same = {
            "recipe": json.loads(state["recipe"]) == self.recipe.model_dump(mode="json"),
            "data": state["data"] == self._fingerprint(),
        }
        for what, is_same in same.items():
            if not is_same:
                raise ValueError(f"the run was started with another {what}; start afresh with another --output")
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]
        self.loss.fill_(state["loss"])
        return state["machine"]

    def check_loss(self) -> None:
        """Raise FloatingPointError if the loss is not finite."""
        if not self.loss.isfinite():
            raise FloatingPointError(f"the loss is {self.loss.item()} at step {self.step}: lower max_learning_rate")

    def _fingerprint(self) -> str:
        digest = hashlib.sha256("\n".join(self.data.labels).encode())
        digest.update(self.task.fingerprint(self.data))
        return digest.hexdigest()


def _create(recipe: CommonRecipe, num_classes: int) -> nn.Module:
    name, options = recipe.network.architecture, recipe.network.options
    try:
        return create_model(name, num_classes=num_classes, image_size=recipe.preprocessing.crop, **options)
    except TypeError as error:
        raise ValueError(f"network.options of {name}: {error}") from error
