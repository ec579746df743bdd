"""Boxes with a class each: focal loss and GIoU; COCO's average precision."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aaserve.bundle.coco import instances as coco
from aaserve.bundle.coco.average_precision import DetectionScore
from aaserve.training.datasets.augmentation import to_inputs
from aaserve.training.datasets.data import Data
from aaserve.training.detection.evaluate import evaluate
from aaserve.training.detection.losses import assign, detection_loss
from aaserve.training.detection.pictures import BoxedPictures
from aaserve.training.log import Row
from aaserve.training.recipe import DetectorRecipe

if TYPE_CHECKING:
    from aaserve.training.loop.run import Run


class Detection:
    def __init__(self, recipe: DetectorRecipe) -> None:
        self._recipe = recipe

    def open_data(self, folder: Path, device: torch.device) -> Data:
        data = open_coco(folder, self._recipe)
        data.training.check()
        data.test.check()
        return data

    def fingerprint(self, data: Data) -> bytes:
        pictures: Sequence[coco.Picture] = data.training.pictures
        return b"\n".join(
            b"".join((one.path.name.encode(), one.boxes.tobytes(), one.classes.tobytes(), one.crowd.tobytes()))
            for one in pictures
        )

    def columns(self) -> tuple[str, ...]:
        return ("ap", "ap_50", "ap_75")

    def score(self, run: Run, row: Row) -> DetectionScore:
        return DetectionScore(len(run.data.test), row["ap"], row["ap_50"], row["ap_75"])

    def batches(
        self, run: Run, order: Sequence[NDArray[np.int64]], seed: Sequence[int]
    ) -> Iterator[tuple[Tensor, list[Tensor], list[Tensor]]]:
        """Pixels uint8 (B, H, W, 3); boxes (n, 4) and classes (n,) of each picture."""
        device = run.machine.device
        for pixels, boxes, classes in run.data.training.batches(order, seed):
            yield pixels.to(device), [one.to(device) for one in boxes], [one.to(device) for one in classes]

    def parts(
        self, run: Run, batch: tuple[Tensor, list[Tensor], list[Tensor]], random: np.random.Generator
    ) -> list[tuple[Tensor, ...]]:
        """Images (b, 3, H, W), assignment (b, A), boxes and classes of the positive anchors, and their number."""
        pixels, boxes, classes = batch
        anchors, divided = run.network.anchors, self._recipe.optimisation.accumulation
        images = to_inputs(pixels, self._recipe.preprocessing)
        assigned = torch.stack([assign(anchors, one, self._recipe.boxes) for one in boxes])  # (B, A)
        # Of the whole batch of all processes, so that its parts together move the weights as it would.
        share = (run.machine.sum((assigned >= 0).sum()) / run.machine.processes).clamp(min=1) / divided
        positive = [one[one >= 0] for one in assigned]
        wanted = [one[chosen] for one, chosen in zip(boxes, positive, strict=True)]
        kinds = [one[chosen] for one, chosen in zip(classes, positive, strict=True)]
        size = len(images) // divided
        cuts = [slice(start, start + size) for start in range(0, len(images), size)]
        return [(images[cut], assigned[cut], torch.cat(wanted[cut]), torch.cat(kinds[cut]), share) for cut in cuts]

    def loss(self, run: Run, images: Tensor, assigned: Tensor, boxes: Tensor, classes: Tensor, share: Tensor) -> Tensor:
        class_logits, box_deltas = run.parallel(images)
        with torch.autocast(run.machine.device.type, enabled=False):
            loss = detection_loss(
                class_logits.float(),
                box_deltas.float(),
                run.network.anchors,
                assigned,
                boxes,
                classes,
                self._recipe.boxes.box_weight,
            )
        return loss / share

    def evaluate(self, run: Run) -> DetectionScore:
        recipe, data = self._recipe, run.data
        return evaluate(run.tested, data.test, recipe.preprocessing, run.machine, len(data.labels))


def open_coco(folder: Path, recipe: DetectorRecipe, split: str | None = None) -> Data:
    """Open the data set in `folder`.

    Args:
        split: "val" or "test", to test on; by default the first that exists.

    Raises:
        FileNotFoundError: no such folder, no instances file, or a listed picture is missing.
        ValueError: as `coco.read_split`, or splits of other categories.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; --data names the folder that holds {coco.LAYOUT}")
    training, tests = coco.find_split(folder, "train"), {}
    for name in coco.TEST_SPLITS:
        if place := coco.find_split(folder, name):
            tests[name] = place
    alone = coco.find_split(folder, "")
    if training is None and alone and not split:
        pictures = coco.read_split(*alone)
        splits = (pictures, pictures)
        found = (f"{pictures}", "tests on the pictures that it trains with: there is no other instances file")
    elif training is None or not tests or (split and split not in tests):
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        wanted = f"instances_{split}.json" if split and training else coco.LAYOUT
        raise FileNotFoundError(f"{folder}: expected {wanted}; found {names}")
    else:
        chosen = split or next(iter(tests))
        splits = (coco.read_split(*training), coco.read_split(*tests[chosen]))
        coco.check_same_labels(*splits)
        others = [file.name for name, (file, _) in tests.items() if name != chosen]
        found = (*map(str, splits), *(f"{other} is not read, since there is {splits[1].file.name}" for other in others))
    for one in splits:
        coco.check_boxes(one)
    threads = len(os.sched_getaffinity(0))
    preprocessing = recipe.preprocessing
    return Data(
        splits[0].labels,
        BoxedPictures(splits[0].pictures, preprocessing, augmentation=recipe.augmentation, threads=threads),
        BoxedPictures(splits[1].pictures, preprocessing, augmentation=None, threads=threads),
        found,
    )
