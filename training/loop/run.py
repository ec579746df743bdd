"""A run in progress: its parts, and everything that changes during training.

All randomness depends on (seed, epoch, step), so there is no generator state to save: a run that loads the `state` of
any step continues as if it had not been interrupted.
"""

import hashlib
import json
from typing import Any

import torch
from torch import nn

from aaserve.models import create_model
from aaserve.training.classification.distillation import Teacher
from aaserve.training.datasets.data import Data
from aaserve.training.log import Row
from aaserve.training.machine import Machine
from aaserve.training.optimisation.optimiser import averaged, create_optimiser
from aaserve.training.optimisation.precision import depthwise_in_float32
from aaserve.training.recipe import CommonRecipe, Recipe
from aaserve.training.task import Task, task_of
from aaserve.training.weights import read_weights, take


class Run:
    """Starts with random weights, drawn from the recipe's seed, or with the recipe's initial weights.

    Attributes:
        taken: description of the loaded initial weights.
        steps: of the optimiser in an epoch; images that do not fill a batch are skipped in that epoch.
        step: number of steps done, over all epochs.
        loss: sum over this epoch's steps in this process.
        seconds: of training in this epoch so far, without evaluation.

    Raises:
        ValueError: no such architecture, wrong options, or a batch size that is too large or not divisible.
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
            raise ValueError(
                f"expected {settings.batch_size} images or more for training (batch_size), found {len(data.training)}"
            )
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
        """The network that is evaluated and kept: the averaged one if there is one."""
        return self.average.module if self.average else self.network

    def train_mode(self) -> None:
        """Turn on dropout and stochastic depth; update batch statistics unless they are frozen."""
        self.network.train()
        if self.recipe.optimisation.frozen_statistics:
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    @property
    def share(self) -> slice:
        """The rows of a batch for this process."""
        size = self.recipe.optimisation.batch_size // self.machine.processes
        return slice(self.machine.rank * size, (self.machine.rank + 1) * size)

    def state(self) -> dict[str, Any]:
        """Everything `load` needs. All processes call it together.

        Raises:
            FloatingPointError: the loss or a weight is not finite; such a state is useless.
        """
        self.loss = self.machine.sum(self.loss) / self.machine.processes
        self.check_loss()
        self._check_weights()
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
        """Load what `state` returned, and return the machine on which it was made.

        Raises:
            ValueError: it belongs to a different recipe or to different data.
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

    def _check_weights(self) -> None:
        """Raise FloatingPointError if a weight is not finite, which need not show in the loss."""
        for name, weight in self.network.named_parameters():
            if not weight.isfinite().all():
                way_out = "lower max_learning_rate"
                if self.recipe.optimisation.precision == "bf16":  # PyTorch 2.13 on CPUs without bf16 instructions
                    way_out += ", or train with precision fp32 if this machine has no bf16 instructions"
                raise FloatingPointError(f"{name} is not finite at step {self.step}: {way_out}")

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
