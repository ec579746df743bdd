"""Pictures in folders named by their classes, as ImageNet is usually kept (ImageFolder).

    DIR/train/CLASS/*.jpg    DIR/val/CLASS/*.jpg (or test/)

Pictures are read while the device computes, by threads, since Pillow decodes and resizes outside the interpreter lock.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bundle.decoding import decode
from bundle.errors import ImageError
from bundle.preprocessing import Preprocessing, read_pixels

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
MAX_PIXELS = 100_000_000
BATCHES_AHEAD = 2
ASPECTS = (3 / 4, 4 / 3)  # of a random crop, width over height (Szegedy et al. 2015)


def read_classes(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


class PictureFiles:
    """Pictures of a split, read anew each time. `classes`: int64 (N,).

    Args:
        area: smallest and largest share of a picture to cut out at random; None reads them as the service does.

    Raises:
        ValueError: no pictures, or a folder whose name is none of `labels`.
    """

    def __init__(
        self,
        folder: Path,
        labels: Sequence[str],
        preprocessing: Preprocessing,
        *,
        area: tuple[float, float] | None,
        threads: int,
    ) -> None:
        unknown = sorted(set(read_classes(folder)) - set(labels))
        if unknown:
            raise ValueError(f"{folder / unknown[0]}: no class of that name in train/")
        found = [
            (path, number)
            for number, label in enumerate(labels)
            for path in sorted((folder / label).glob("*"))
            if path.suffix.lower() in SUFFIXES
        ]
        if not found:
            raise ValueError(f"{folder}: expected folders named by class with pictures in them, found none")
        self.classes = np.array([number for _, number in found], dtype=np.int64)
        self._paths = [path for path, _ in found]
        self._preprocessing = preprocessing
        self._area = area
        self._threads = threads

    def batches(self, order: Sequence[NDArray[np.int64]], seed: Sequence[int]) -> Iterator[Tensor]:
        """Pixels uint8 (B, H, W, 3) of each batch of indices; random crops follow from `seed` and the index alone."""
        pool = ThreadPoolExecutor(self._threads)
        waiting: deque = deque()
        try:
            for batch in order:
                waiting.append([pool.submit(self._read, int(index), seed) for index in batch])
                if len(waiting) > BATCHES_AHEAD:
                    yield _stacked(waiting.popleft())
            while waiting:
                yield _stacked(waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

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


def _stacked(futures: list) -> Tensor:
    return torch.from_numpy(np.stack([future.result() for future in futures]))
