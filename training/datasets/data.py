"""A folder of pictures in a known layout --> labels, training pictures, test pictures.

Both splits are decoded, resized and cropped by bundle.preprocessing, so a network is trained and tested on the pixels
that it gets in the service.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aaserve.bundle.coco.instances import LAYOUT
from aaserve.bundle.preprocessing import Preprocessing, read_pixels
from aaserve.training.datasets import cifar
from aaserve.training.datasets.folders import MAX_PIXELS, PictureFiles, check_classes, read_split
from aaserve.training.datasets.numbered import Numbered, read_numbered

LAYOUTS = "cifar-100-python/, cifar-10-batches-py/, or train/ and val/ (or test/) with a folder for each class"
DATA_HELP = f"folder that holds {LAYOUTS}; for a detector, COCO's format: {LAYOUT}"
TEST_FOLDERS = ("val", "test")  # the first that exists


class Pictures(Protocol):
    """Pictures of a split; `classes` are int64 (N,)."""

    classes: NDArray[np.int64]

    def __len__(self) -> int:
        """N."""

    def batches(self, order: Sequence[NDArray[np.int64]], seed: Sequence[int]) -> Iterator[Tensor]:
        """Pixels uint8 (B, H, W, 3) of each batch of indices; all randomness follows from `seed`."""


@dataclass(frozen=True)
class Data:
    """A data set; `found` describes in a few lines what it contains and what was left out.

    If the test pictures come from several places, `sources` are their parts, which are also scored separately.
    """

    labels: tuple[str, ...]
    training: Pictures
    test: Pictures
    found: tuple[str, ...]
    sources: Mapping[str, Pictures] = field(default_factory=dict)


def open_data(
    folder: Path,
    preprocessing: Preprocessing,
    *,
    area: tuple[float, float] | None,
    device: torch.device,
    labels: Sequence[str] = (),
) -> Data:
    """Open the data set in `folder`; small pictures for training are held on `device`.

    Args:
        area: share of a picture's area for random crops, see PictureFiles.
        labels: class names, for pictures named by their class number.

    Raises:
        FileNotFoundError: no such folder, or no known layout in it.
        ValueError: damaged or empty, splits that do not match, or random crops of pictures that are already small.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; --data names the folder that holds {LAYOUTS}")
    threads = len(os.sched_getaffinity(0))
    if labels:
        return _open_numbered(folder, preprocessing, labels, area, threads)
    if any((folder / form.folder).is_dir() for form in cifar.FORMS):
        if area:
            raise ValueError("resized_crop_area is for pictures in folders; CIFAR's are already 32x32")
        splits = {name: cifar.read_split(folder, name) for name in ("train", "test")}
        names = cifar.read_labels(folder)
        for name, split in splits.items():
            if len(split.labels) and not 0 <= split.labels.min() <= split.labels.max() < len(names):
                raise ValueError(f"{folder}: expected labels of {len(names)} classes in {name}, found others")
        counts = {name: len(split.labels) for name, split in splits.items()}
        return Data(
            tuple(names),
            PicturesInMemory(splits["train"], preprocessing, device, threads),
            PicturesInMemory(splits["test"], preprocessing, torch.device("cpu"), threads),
            (f"CIFAR: {counts['train']:,} pictures to train with, {counts['test']:,} to test, {len(names)} classes",),
        )
    tests = [folder / name for name in TEST_FOLDERS if (folder / name).is_dir()]
    if not tests or not (folder / "train").is_dir():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        raise FileNotFoundError(f"{folder}: expected {LAYOUTS}; found {found}")
    if tests[0].samefile(folder / "train"):
        raise ValueError(f"{tests[0]}: expected other pictures than those of train/, found a link to them")
    training, test = read_split(folder / "train"), read_split(tests[0])
    names = check_classes(training, test)
    not_read = [f"{other.name}/ is not read, since there is {tests[0].name}/" for other in tests[1:]]
    return Data(
        tuple(names),
        PictureFiles.of_split(training, names, preprocessing, area=area, threads=threads),
        PictureFiles.of_split(test, names, preprocessing, area=None, threads=threads),
        (str(training), str(test), *not_read),
    )


def _open_numbered(
    folder: Path,
    preprocessing: Preprocessing,
    labels: Sequence[str],
    area: tuple[float, float] | None,
    threads: int,
) -> Data:
    training = read_numbered(folder / "train", len(labels), needed=False)
    held_out = read_numbered(folder / "held_out", len(labels), needed=True)

    def opened(numbered: Numbered, random_area: tuple[float, float] | None) -> PictureFiles:
        return PictureFiles(numbered.paths, numbered.classes, preprocessing, area=random_area, threads=threads)

    return Data(
        tuple(labels),
        opened(training, area),
        opened(held_out, None),
        (str(training), str(held_out)),
        {source: opened(part, None) for source, part in held_out.by_source().items()},
    )


class PicturesInMemory:
    """Small pictures, each read once as the service would read it: encoded, decoded, resized, cropped."""

    def __init__(self, split: cifar.Split, preprocessing: Preprocessing, device: torch.device, threads: int) -> None:
        def read(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
            return read_pixels(cifar.as_png(image), preprocessing, max_pixels=MAX_PIXELS)

        with ThreadPoolExecutor(threads) as pool:
            self._pixels = torch.from_numpy(np.stack(list(pool.map(read, split.images)))).to(device)  # (N, H, W, 3)
        self.classes = split.labels

    def __len__(self) -> int:
        return len(self.classes)

    def batches(self, order: Sequence[NDArray[np.int64]], seed: Sequence[int]) -> Iterator[Tensor]:
        for index in order:
            yield self._pixels[torch.from_numpy(index).to(self._pixels.device)]
