"""A folder of pictures, in one of the layouts that we know --> labels, training pictures, test pictures.

Both splits are decoded, resized and cropped by bundle.preprocessing, so a network is trained and judged on the pixels
that the service will show it.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aaserve.bundle.preprocessing import Preprocessing, read_pixels
from aaserve.training import cifar
from aaserve.training.folders import MAX_PIXELS, PictureFiles, check_classes, read_split

LAYOUTS = "cifar-100-python/, cifar-10-batches-py/, or train/ and val/ (or test/) with a folder for each class"
TEST_FOLDERS = ("val", "test")  # the first that exists


class Pictures(Protocol):
    """Pictures of a split; `classes` are int64 (N,)."""

    classes: NDArray[np.int64]

    def batches(self, order: Sequence[NDArray[np.int64]], seed: Sequence[int]) -> Iterator[Tensor]:
        """Pixels uint8 (B, H, W, 3) of each batch of indices; whatever is random follows from `seed`."""


@dataclass(frozen=True)
class Data:
    """A data set; `found` says in a few lines what it is made of and what was left out."""

    labels: tuple[str, ...]
    training: Pictures
    test: Pictures
    found: tuple[str, ...]


def open_data(
    folder: Path, preprocessing: Preprocessing, *, area: tuple[float, float] | None, device: torch.device
) -> Data:
    """Open the data set in `folder`; small pictures for training are held on `device`.

    Args:
        area: share of a picture's area for random crops, see PictureFiles.

    Raises:
        FileNotFoundError: no such folder, or none of the layouts in it.
        ValueError: damaged or empty, splits that do not match, or random crops of pictures that are small already.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; --data names the folder that holds {LAYOUTS}")
    threads = len(os.sched_getaffinity(0))
    if any((folder / form.folder).is_dir() for form in cifar.FORMS):
        if area:
            raise ValueError("resized_crop_area is for pictures in folders; CIFAR's are 32x32 already")
        splits = {name: cifar.read_split(folder, name) for name in ("train", "test")}
        labels = cifar.read_labels(folder)
        for name, split in splits.items():
            if len(split.labels) and not 0 <= split.labels.min() <= split.labels.max() < len(labels):
                raise ValueError(f"{folder}: expected labels of {len(labels)} classes in {name}, found others")
        counts = {name: len(split.labels) for name, split in splits.items()}
        return Data(
            tuple(labels),
            PicturesInMemory(splits["train"], preprocessing, device, threads),
            PicturesInMemory(splits["test"], preprocessing, torch.device("cpu"), threads),
            (f"CIFAR: {counts['train']:,} pictures to train with, {counts['test']:,} to test, {len(labels)} classes",),
        )
    tests = [folder / name for name in TEST_FOLDERS if (folder / name).is_dir()]
    if not tests or not (folder / "train").is_dir():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        raise FileNotFoundError(f"{folder}: expected {LAYOUTS}; found {found}")
    if tests[0].samefile(folder / "train"):
        raise ValueError(f"{tests[0]}: expected other pictures than those of train/, found a link to them")
    training, test = read_split(folder / "train"), read_split(tests[0])
    labels = check_classes(training, test)
    not_read = [f"{other.name}/ is not read, since there is {tests[0].name}/" for other in tests[1:]]
    return Data(
        tuple(labels),
        PictureFiles(training, labels, preprocessing, area=area, threads=threads),
        PictureFiles(test, labels, preprocessing, area=None, threads=threads),
        (str(training), str(test), *not_read),
    )


class PicturesInMemory:
    """Small pictures, each read once as the service would read it: encoded, decoded, resized, cropped."""

    def __init__(self, split: cifar.Split, preprocessing: Preprocessing, device: torch.device, threads: int) -> None:
        def read(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
            return read_pixels(cifar.as_png(image), preprocessing, max_pixels=MAX_PIXELS)

        with ThreadPoolExecutor(threads) as pool:
            self._pixels = torch.from_numpy(np.stack(list(pool.map(read, split.images)))).to(device)  # (N, H, W, 3)
        self.classes = split.labels

    def batches(self, order: Sequence[NDArray[np.int64]], seed: Sequence[int]) -> Iterator[Tensor]:
        for index in order:
            yield self._pixels[torch.from_numpy(index).to(self._pixels.device)]
