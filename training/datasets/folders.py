"""Pictures in folders named after their classes, as ImageNet is usually stored (ImageFolder).

    DIR/train/CLASS/*.jpg    DIR/val/CLASS/*.jpg (or test/)

`read_split` finds the pictures, also in folders below CLASS; `check_classes` refuses splits that do not match.
Pillow decodes and resizes outside the interpreter lock, so threads read pictures while the device computes.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from aaserve.bundle.errors import ImageError
from aaserve.bundle.files.text import is_one_line
from aaserve.bundle.pictures.decoding import decode
from aaserve.bundle.pictures.picture_files import find_pictures, told, total
from aaserve.bundle.preprocessing import Preprocessing, read_pixels
from aaserve.training.datasets.read_ahead import read_ahead

MAX_PIXELS = 100_000_000
ASPECTS = (3 / 4, 4 / 3)  # of a random crop, width over height (Szegedy et al. 2015)


@dataclass(frozen=True)
class Split:
    """Pictures by class, both sorted, and counts of what was left out, by reason."""

    folder: Path
    pictures: dict[str, tuple[Path, ...]]
    left_out: Counter[str]

    def __str__(self) -> str:
        counts = {name: len(paths) for name, paths in self.pictures.items()}
        fewest, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
        text = f"{self.folder.name}/: {sum(counts.values()):,} pictures of {len(counts):,} classes, "
        if counts[fewest] == counts[most]:
            text += f"{counts[most]:,} of each"
        else:
            text += f"from {counts[fewest]:,} ({fewest}) to {counts[most]:,} ({most})"
        return f"{text}; {told(self.left_out)}" if self.left_out else text


def read_split(folder: Path) -> Split:
    """Find the pictures of each class in `folder`; folders below a class belong to it.

    Raises:
        ValueError: something cannot be read, or pictures belong to no class.
    """
    found = find_pictures(folder)
    if found.pictures:
        raise ValueError(
            f"{found.pictures[0]}: expected pictures in folders named by class only, "
            f"found {len(found.pictures):,} in {folder} itself"
        )
    classes = {path.name: find_pictures(path, deeper=True) for path in found.folders}
    left_out = total([found.left_out, *(inside.left_out for inside in classes.values())])
    return Split(folder, {name: inside.pictures for name, inside in classes.items()}, left_out)


def check_classes(training: Split, test: Split) -> list[str]:
    """Return the names of the classes, sorted.

    Raises:
        ValueError: a class without pictures, or in one split only; fewer than two classes; names that differ only in
            case or cannot be printed.
    """
    for split in (training, test):
        if not any(split.pictures.values()):
            raise ValueError(f"{split.folder}: expected folders named by class with pictures in them, found none")
    if unknown := sorted(set(test.pictures) - set(training.pictures)):
        raise ValueError(f"{test.folder / unknown[0]}: no class of that name in {training.folder.name}/")
    for split in (training, test):
        if empty := [name for name in training.pictures if not split.pictures.get(name)]:
            more = f", nor for {len(empty) - 1:,} more classes" if len(empty) > 1 else ""
            raise ValueError(
                f"{split.folder / empty[0]}: expected pictures of each class in {training.folder.name}/, "
                f"found none{more}; add some, or remove the folders of the class"
            )
    if len(training.pictures) < 2:
        raise ValueError(f"{training.folder}: expected two classes or more, found {', '.join(training.pictures)} alone")
    alike: dict[str, str] = {}
    for name in training.pictures:
        if not is_one_line(name) or name != name.strip():
            raise ValueError(
                f"{training.folder / name!r}: expected a name without control characters, not ending in spaces"
            )
        other = alike.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise ValueError(f"{training.folder}: expected classes of different names, found {other!r} and {name!r}")
    return sorted(training.pictures)


class PictureFiles:
    """Pictures of a split, read each time they are used.

    Args:
        classes: int64 (N,).
        area: smallest and largest share of a picture to cut out at random; None: read pictures like the service.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        classes: NDArray[np.int64],
        preprocessing: Preprocessing,
        *,
        area: tuple[float, float] | None,
        threads: int,
    ) -> None:
        self.classes = classes
        self._paths = paths
        self._preprocessing = preprocessing
        self._area = area
        self._threads = threads

    @classmethod
    def of_split(cls, split: Split, labels: Sequence[str], *arguments: Any, **options: Any) -> Self:
        """The pictures of a split with their classes; `labels` in the order of the class numbers."""
        found = [(path, number) for number, label in enumerate(labels) for path in split.pictures[label]]
        classes = np.array([number for _, number in found], dtype=np.int64)
        return cls([path for path, _ in found], classes, *arguments, **options)

    def __len__(self) -> int:
        return len(self.classes)

    def batches(self, order: Sequence[NDArray[np.int64]], seed: Sequence[int]) -> Iterator[Tensor]:
        """Pixels uint8 (B, H, W, 3) of each batch of indices; random crops follow from `seed` and the index alone."""
        for pixels in read_ahead(partial(self._read, seed=seed), order, self._threads):
            yield torch.from_numpy(np.stack(pixels))

    def _read(self, index: int, seed: Sequence[int]) -> NDArray[np.uint8]:
        path = self._paths[index]
        try:
            if self._area is None:
                return read_pixels(path.read_bytes(), self._preprocessing, max_pixels=MAX_PIXELS)
            return _random_crop(
                path.read_bytes(), self._preprocessing, self._area, np.random.default_rng((*seed, index))
            )
        except ImageError as error:
            raise ValueError(f"{path}: {error}") from error
        except OSError as error:
            raise ValueError(f"{path}: expected a readable file, found: {error.strerror or error}") from error


def _random_crop(
    image_bytes: bytes, preprocessing: Preprocessing, area: tuple[float, float], random: np.random.Generator
) -> NDArray[np.uint8]:
    """A part of the picture of random size and shape, resized to the crop (Szegedy et al. 2015)."""
    image = decode(
        image_bytes,
        max_pixels=MAX_PIXELS,
        background=preprocessing.background,
        exif_orientation=preprocessing.exif_orientation,
    )
    pixels = image.width * image.height * random.uniform(*area)
    aspect = math.exp(random.uniform(*np.log(ASPECTS)))
    width = min(math.sqrt(pixels * aspect), image.width)
    height = min(math.sqrt(pixels / aspect), image.height)
    left, top = random.uniform(0, image.width - width), random.uniform(0, image.height - height)
    resampling = Image.Resampling[preprocessing.interpolation.upper()]
    crop_height, crop_width = preprocessing.crop
    box = (left, top, min(left + width, image.width), min(top + height, image.height))
    return np.asarray(image.resize((crop_width, crop_height), resampling, box=box))
