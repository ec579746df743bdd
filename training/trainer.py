"""One training run, from a recipe to weights.

    images --augment--> batches --network--> loss --SGD, one cycle--> weights --after each epoch--> last.pt, log.csv

A run is a pure function of recipe, data and machine: every epoch draws its shuffle and its augmentation from a
generator seeded by (seed, epoch), so that a resumed run repeats what an uninterrupted one does.
"""

import csv
import math
import time
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from bundle.preprocessing import normalise
from models import create_model
from training.augment import augment
from training.checkpoint import load_state, save_state, save_weights
from training.cifar import Split, read_labels, read_split
from training.evaluate import accuracy, preprocessed
from training.recipe import Optimisation, Recipe


def train(recipe: Recipe, data: Path, output: Path, *, resume: bool, progress: Progress) -> float:
    """Train, and return the top-1 accuracy on the test images.

    Writes `last.pt` and a line of `log.csv` after each epoch and `model.safetensors` at the end, all in `output`.

    Raises:
        ValueError: `resume` with another recipe than the run was started with, or an unknown architecture.
        FileNotFoundError: no data, or nothing to resume.
        FileExistsError: a run is there and `resume` was not asked for.
    """
    settings = recipe.optimisation
    last = output / "last.pt"
    if last.exists() and not resume:
        raise FileExistsError(f"{last} exists: --resume continues it, another --output starts afresh")
    state = load_state(last) if resume else None
    if state and state["recipe"] != recipe.model_dump_json():
        raise ValueError(f"{last} was made by another recipe; start afresh with another --output")

    labels = read_labels(data)
    torch.manual_seed(settings.seed)
    network = create_model(recipe.network.architecture, num_classes=len(labels), image_size=recipe.preprocessing.crop)
    network.to(memory_format=torch.channels_last)
    training, test = read_split(data, "train"), read_split(data, "test")
    test_inputs = preprocessed(
        progress.track(test.images, description="preparing the test images"), recipe.preprocessing
    )
    test_labels = torch.from_numpy(test.labels)
    steps = math.ceil(len(training.labels) / settings.batch_size)
    optimiser = SGD(_parameter_groups(network, settings), lr=1, momentum=settings.momentum, nesterov=True)
    schedule = LambdaLR(optimiser, lambda step: _one_cycle(step / (steps * settings.epochs), settings))
    if state:
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])

    output.mkdir(parents=True, exist_ok=True)
    top_1 = 0.0
    for epoch in range(state["epoch"] if state else 0, settings.epochs):
        started = time.monotonic()
        task = progress.add_task(f"epoch {epoch + 1}/{settings.epochs}", total=steps)
        loss = 0.0
        network.train()
        for inputs, wanted in _batches(training, recipe, epoch):
            loss += _step(network, inputs, wanted, optimiser, settings) / steps
            schedule.step()
            progress.advance(task)
        progress.remove_task(task)
        top_1 = accuracy(network, test_inputs, test_labels)
        seconds = time.monotonic() - started
        _log(output / "log.csv", epoch=epoch + 1, loss=f"{loss:.4f}", top_1=f"{top_1:.4f}", seconds=f"{seconds:.1f}")
        progress.console.print(f"epoch {epoch + 1:3}  loss {loss:.3f}  test top-1 {top_1:.2%}  {seconds:.0f} s")
        save_state(
            last,
            {
                "recipe": recipe.model_dump_json(),
                "epoch": epoch + 1,
                "network": network.state_dict(),
                "optimiser": optimiser.state_dict(),
                "schedule": schedule.state_dict(),
            },
        )
    metadata = {
        "recipe": recipe.model_dump(mode="json"),
        "labels": labels,
        "test": {
            "images": len(test_labels),
            "top_1": accuracy(network, test_inputs, test_labels),
            "top_5": accuracy(network, test_inputs, test_labels, top_k=5),
        },
    }
    save_weights(output / "model.safetensors", network, metadata)
    return metadata["test"]["top_1"]


def _batches(split: Split, recipe: Recipe, epoch: int):
    """Shuffled, augmented, normalised batches: (B, 3, H, W) and labels (B,)."""
    settings = recipe.optimisation
    generator = torch.Generator().manual_seed(settings.seed * 100_003 + epoch)
    order = torch.randperm(len(split.labels), generator=generator)
    for index in order.split(settings.batch_size):
        inputs = torch.from_numpy(normalise(split.images[index.numpy()], recipe.preprocessing))
        yield augment(inputs, recipe.augmentation, generator), torch.from_numpy(split.labels[index.numpy()])


def _step(network: nn.Module, inputs: Tensor, wanted: Tensor, optimiser: SGD, settings: Optimisation) -> float:
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
        logits = network(inputs)
    loss = F.cross_entropy(logits.float(), wanted, label_smoothing=settings.label_smoothing)
    if not loss.isfinite():
        raise FloatingPointError(f"the loss is {loss.item()}: lower max_learning_rate")
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


def _one_cycle(done: float, settings: Optimisation) -> float:
    """Learning rate after the share `done` of all steps: linear up, cosine down to zero (Smith & Topin 2018)."""
    if done < settings.warm_up_fraction:
        return settings.max_learning_rate * done / settings.warm_up_fraction
    left = (1 - done) / (1 - settings.warm_up_fraction)
    return settings.max_learning_rate * (1 - math.cos(math.pi * left)) / 2


def _parameter_groups(network: nn.Module, settings: Optimisation) -> list[dict]:
    """Weight decay for kernels only: not for normalisation, biases and position embeddings."""
    decayed, free = [], []
    for name, parameter in network.named_parameters():
        (free if parameter.ndim < 2 or "key_rel" in name else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": free, "weight_decay": 0.0}]


def _log(path: Path, **row: object) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)
