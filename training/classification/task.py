"""One class per picture: cross-entropy, or the loss from a teacher; top-1 and top-5."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from aaserve.training.classification.evaluate import Score, evaluate
from aaserve.training.datasets.augmentation import DRAWS_PER_IMAGE, augment
from aaserve.training.datasets.data import Data, open_data
from aaserve.training.datasets.mixing import draw_mix, mix
from aaserve.training.datasets.numbered import class_names
from aaserve.training.log import Row
from aaserve.training.recipe import Recipe

if TYPE_CHECKING:
    from aaserve.training.loop.run import Run


class Classification:
    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def open_data(self, folder: Path, device: torch.device) -> Data:
        area, labels = self._recipe.augmentation.resized_crop_area, class_names(self._recipe)
        return open_data(folder, self._recipe.preprocessing, area=area, device=device, labels=labels)

    def fingerprint(self, data: Data) -> bytes:
        return data.training.classes.tobytes()

    def columns(self) -> tuple[str, ...]:
        return ("top_1", "top_5", *(("agreement",) if self._recipe.distillation else ()))

    def score(self, run: Run, row: Row) -> Score:
        return Score(len(run.data.test), row["top_1"], row["top_5"], row.get("agreement"))

    def batches(
        self, run: Run, order: Sequence[NDArray[np.int64]], seed: Sequence[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Pixels (B, H, W, 3) and classes (B,)."""
        pictures, device = run.data.training, run.machine.device
        for index, pixels in zip(order, pictures.batches(order, seed), strict=True):
            yield pixels.to(device), torch.from_numpy(pictures.classes[index]).to(device)

    def parts(self, run: Run, batch: tuple[Tensor, Tensor], random: np.random.Generator) -> list[tuple[Tensor, Tensor]]:
        """Images (b, 3, H, W), and classes (b,) or probabilities (b, num_classes)."""
        pixels, classes = batch
        settings, augmentation = self._recipe.optimisation, self._recipe.augmentation
        draws = random.random((settings.batch_size, DRAWS_PER_IMAGE))[run.share]
        how = draw_mix(augmentation, random)
        in_memory = self._recipe.distillation and self._recipe.distillation.in_memory  # then they are a layer's outputs
        images = pixels if in_memory else augment(pixels, augmentation, self._recipe.preprocessing, draws)
        classes = classes.clamp(min=0)  # pictures without labels have no weight in the loss
        parts = zip(images.chunk(settings.accumulation), classes.chunk(settings.accumulation), strict=True)
        return [mix(*part, how, len(run.data.labels)) if how else part for part in parts]

    def loss(self, run: Run, inputs: Tensor, wanted: Tensor) -> Tensor:
        if run.teacher:
            return run.teacher.loss(run.parallel, inputs, wanted)
        logits = run.parallel(inputs).float()  # (B, num_classes)
        return F.cross_entropy(logits, wanted, label_smoothing=self._recipe.optimisation.label_smoothing)

    def evaluate(self, run: Run) -> Score:
        teacher = run.teacher.network if run.teacher else None
        return evaluate(run.tested, run.data.test, self._recipe.preprocessing, run.machine, teacher)
