"""Learning from a teacher: its probabilities, and the outputs of its layers.

    images --teacher--> logits, features --+
    images --student--> logits, features --+--> loss

    pictures --layers that are not trained--> outputs, kept in memory --> the rest of both networks

Sources: Hinton et al. 2015 (logits), Romero et al. 2015 (features).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from aaserve.models import create_model
from aaserve.training.datasets.augmentation import to_inputs
from aaserve.training.datasets.data import Data, Pictures
from aaserve.training.datasets.numbered import UNKNOWN
from aaserve.training.recipe import Distillation, Recipe
from aaserve.training.weights import number_of_classes, read_weights, take


@contextmanager
def outputs_of(network: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Outputs of layers, by name, recorded while the network runs."""
    outputs: dict[str, Tensor] = {}

    def keep(layer: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs[layer] = output

    handles = [network.get_submodule(layer).register_forward_hook(partial(keep, layer)) for layer in layers]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


class Teacher:
    """The teacher in evaluation mode, and the loss of a student with the same layers.

    Raises:
        ValueError: the teacher's classes are not the data's, its weights do not fit, pictures lack labels that the loss
            needs, or a pattern matches no layer of both networks.
    """

    def __init__(self, recipe: Recipe, student: nn.Module, data: Data, device: torch.device) -> None:
        settings = _settings(recipe)
        self.settings = settings
        self._student, self._image_size = student, recipe.preprocessing.crop
        self._compared = False
        self._label_smoothing = recipe.optimisation.label_smoothing
        self.network = load_teacher(recipe, len(data.labels)).to(device, memory_format=torch.channels_last)
        if settings.label_weight and (data.training.classes == UNKNOWN).any():
            unknown = int((data.training.classes == UNKNOWN).sum())
            raise ValueError(f"distillation.label_weight: expected labels of all pictures, {unknown:,} have none")
        self._layers = _common_layers(settings.features, self.network, student)
        if settings.computed_once and settings.computed_once not in dict(student.named_modules()):
            raise ValueError(f"distillation.computed_once: the network has no layer {settings.computed_once}")

    def loss(self, student: nn.Module, inputs: Tensor, classes: Tensor) -> Tensor:
        """The loss for images (B, 3, H, W), or with `in_memory` for the stored outputs of a layer.

        Args:
            classes: (B,), or probabilities (B, num_classes).
        """
        if self.settings.computed_once and not self.settings.in_memory:
            inputs = self.outputs(inputs)
        with torch.no_grad(), outputs_of(self.network, self._layers) as wanted:
            theirs = self._run(self.network, self.network, inputs).float()  # (B, num_classes)
        with outputs_of(self._student, self._layers) as found:
            ours = self._run(student, self._student, inputs).float()
        loss = self.settings.logit_weight * divergence(ours, theirs)
        if self._layers:
            errors = [relative_error(found[layer], wanted[layer]) for layer in self._layers]
            loss = loss + self.settings.feature_weight * torch.stack(errors).mean()
        if self.settings.label_weight:
            loss = loss + self.settings.label_weight * F.cross_entropy(
                ours, classes, label_smoothing=self._label_smoothing
            )
        return loss

    def outputs(self, images: Tensor) -> Tensor:
        """The output of the layer `computed_once`.

        Raises:
            ValueError: the student's output differs from the teacher's.
        """
        layer = self.settings.computed_once or ""
        output = _output(self.network, layer, images)
        if not self._compared and not torch.equal(_output(self._student, layer, images), output):
            raise ValueError(f"distillation.computed_once: at {layer}, the student's output differs from the teacher's")
        self._compared = True
        return output

    def _run(self, network: nn.Module, layers: nn.Module, inputs: Tensor) -> Tensor:
        """Logits; `layers` is the network without the wrapper for several processes."""
        if self.settings.computed_once is None:
            return network(inputs)
        # The layers up to that one get a single blank image; then its output is replaced.
        handle = layers.get_submodule(self.settings.computed_once).register_forward_hook(lambda *_: inputs)
        try:
            return network(inputs.new_zeros(1, 3, *self._image_size, dtype=torch.float32))
        finally:
            handle.remove()


def load_teacher(recipe: Recipe, num_classes: int) -> nn.Module:
    """The teacher with its weights, in evaluation mode.

    Raises:
        ValueError: its head has a different number of classes, or its weights do not fit.
    """
    settings = _settings(recipe)
    weights = read_weights(settings.teacher_weights)
    try:
        teacher = create_model(
            settings.teacher,
            num_classes=num_classes,
            image_size=recipe.preprocessing.crop,
            **settings.teacher_options,
        )
    except TypeError as error:
        raise ValueError(f"distillation.teacher_options of {settings.teacher}: {error}") from error
    found = number_of_classes(teacher, weights)
    if found not in (None, num_classes):
        raise ValueError(
            f"{settings.teacher_weights}: expected a teacher of the data's {num_classes} classes, found {found}"
        )
    taken = take(teacher, weights, settings.teacher_weights)
    if taken.augmented:
        raise ValueError(f"{settings.teacher_weights}: the weights of the teacher's attention are missing")
    return teacher.eval().requires_grad_(False)


def divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of our probabilities from the teacher's, from logits (B, num_classes)."""
    return F.kl_div(ours.log_softmax(dim=1), theirs.log_softmax(dim=1), reduction="batchmean", log_target=True)


def relative_error(ours: Tensor, theirs: Tensor) -> Tensor:
    """Squared error as a share of the squares."""
    theirs = theirs.float()
    return (ours.float() - theirs).square().sum() / theirs.square().sum()


class OutputsInMemory:
    """Outputs of the layer `computed_once` for each picture and, if wanted, its mirror image; used instead of pictures.

    Attributes:
        classes: int64 (N,).
    """

    def __init__(self, pictures: Pictures, recipe: Recipe, teacher: Teacher) -> None:
        self.classes = pictures.classes
        self._pictures, self._recipe, self._teacher = pictures, recipe, teacher
        self._outputs: list[Tensor] = []  # each (N, C, h, w): unchanged, and mirrored

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def batches_to_compute(self) -> int:
        return -(-len(self.classes) // self._recipe.optimisation.batch_size)

    def compute(self, device: torch.device) -> Iterator[None]:
        """Compute all outputs, and yield after each batch of pictures."""
        count, size = len(self.classes), self._recipe.optimisation.batch_size
        bf16 = self._recipe.optimisation.precision == "bf16"
        order = [np.arange(start, min(start + size, count)) for start in range(0, count, size)]
        for index, pixels in zip(order, self._pictures.batches(order, ()), strict=True):
            images = to_inputs(pixels.to(device), self._recipe.preprocessing)
            views = [images, images.flip(3)] if self._recipe.augmentation.horizontal_flip else [images]
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                outputs = [self._teacher.outputs(view) for view in views]
            if not self._outputs:
                self._outputs = [output.new_empty((count, *output.shape[1:])) for output in outputs]
            for kept, output in zip(self._outputs, outputs, strict=True):
                kept[index] = output
            yield

    def batches(self, order: Sequence[NDArray[np.int64]], seed: Sequence[int]) -> Iterator[Tensor]:
        """Outputs (B, C, h, w) for each batch of indices; mirroring depends only on `seed` and the index."""
        for index in order:
            draws = [np.random.default_rng((*seed, int(one))).integers(len(self._outputs)) for one in index]
            outputs = torch.stack([self._outputs[draw][one] for draw, one in zip(draws, index, strict=True)])
            yield outputs.to(memory_format=torch.channels_last)


class _Reached(Exception):
    """Raised when the layer with the wanted output has run."""


def _output(network: nn.Module, layer: str, images: Tensor) -> Tensor:
    """The output of a layer; the layers after it do not run."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kept.append(output)
        raise _Reached

    handle = network.get_submodule(layer).register_forward_hook(keep)
    try:
        with torch.no_grad():
            network(images)
    except _Reached:
        return kept[0]
    finally:
        handle.remove()
    raise ValueError(f"distillation.computed_once: the network runs no layer {layer}")


def _common_layers(patterns: Sequence[str], teacher: nn.Module, student: nn.Module) -> list[str]:
    """Layers of both networks whose names match a pattern."""
    theirs = {name for name, _ in teacher.named_modules()}
    common = [name for name, _ in student.named_modules() if name in theirs]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in common):
            raise ValueError(f"distillation.features: no layer of both networks matches {pattern}")
    return [name for name in common if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _settings(recipe: Recipe) -> Distillation:
    if recipe.distillation is None:
        raise ValueError("the recipe has no [distillation]")
    return recipe.distillation
