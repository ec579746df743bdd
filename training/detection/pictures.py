"""Pictures and their boxes --> inputs of the network and the boxes in them, varied at random.

    picture --scale, stretch, place--> part of the input --mirror--> --colour--> uint8 (H, W, 3), boxes in its pixels

A mosaic is four pictures, each of which fills a part of the input (Bochkovskiy et al. 2020). Everything random follows
from the seed, the epoch and the number of the picture.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from aaserve.bundle.coco.instances import Picture
from aaserve.bundle.errors import ImageError
from aaserve.bundle.pictures.decoding import decode
from aaserve.bundle.pictures.fitting import placement
from aaserve.bundle.pictures.resizing import resize
from aaserve.bundle.preprocessing import Preprocessing, read_pixels
from aaserve.training.datasets.folders import MAX_PIXELS
from aaserve.training.datasets.read_ahead import read_ahead
from aaserve.training.recipe import DetectorAugmentation

IN_MEMORY = 1 << 30  # bytes of decoded pictures that are kept
LEAST_VISIBLE = 0.3  # of a box's area; what shows less of itself is not to be found
LEAST_SIDE = 2  # pixels of a box in the input
MOSAIC_CENTRE = (0.3, 0.7)  # where the four parts of a mosaic meet, as shares of the input's sides
GREY = np.array((0.299, 0.587, 0.114), np.float32)  # ITU-R BT.601


class Region(NamedTuple):
    """A part of the input, in whole pixels."""

    left: int
    top: int
    right: int
    bottom: int


class Inputs(NamedTuple):
    """Pixels uint8 (B, H, W, 3), and for each picture boxes float32 (n, 4) in pixels of the input and classes (n,)."""

    pixels: Tensor
    boxes: list[Tensor]
    classes: list[Tensor]


class BoxedPictures:
    """The pictures of a split.

    Args:
        augmentation: how they are varied; None reads them as the service does.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        preprocessing: Preprocessing,
        *,
        augmentation: DetectorAugmentation | None,
        threads: int,
    ) -> None:
        self.pictures = pictures
        self._preprocessing, self._augmentation, self._threads = preprocessing, augmentation, threads
        self._decoded: dict[int, Image.Image] = {}
        self._free, self._lock = IN_MEMORY, Lock()
        self._checked: set[int] = set()

    def __len__(self) -> int:
        return len(self.pictures)

    def check(self) -> None:
        """Decode each picture once, so that a bad one is found before the training and not in the middle of it.

        Raises:
            ValueError: as `decoded`.
        """
        with ThreadPoolExecutor(self._threads) as pool:
            for _ in pool.map(self._image if self._augmentation else self._check, range(len(self))):
                pass

    def batches(self, order: Sequence[NDArray[np.int64]], seed: Sequence[int]) -> Iterator[Inputs]:
        """Inputs for each batch of indices."""
        for items in read_ahead(partial(self._read, seed=seed), order, self._threads):
            pixels, boxes, classes = zip(*items, strict=True)
            yield Inputs(
                torch.from_numpy(np.stack(pixels)),
                [torch.from_numpy(np.ascontiguousarray(one)) for one in boxes],
                [torch.from_numpy(one) for one in classes],
            )

    def _read(self, index: int, seed: Sequence[int]) -> tuple[NDArray[np.uint8], NDArray, NDArray]:
        if self._augmentation:
            return self._varied(index, self._augmentation, np.random.default_rng((*seed, index)))
        picture = self.pictures[index]
        self._check(index)
        pixels = read_pixels(_bytes(picture), self._preprocessing, max_pixels=MAX_PIXELS)
        return pixels, picture.boxes, picture.classes

    def _varied(
        self, index: int, augmentation: DetectorAugmentation, random: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray, NDArray]:
        height, width = self._preprocessing.crop
        pixels = np.empty((height, width, 3), np.uint8)
        pixels[:] = self._preprocessing.background
        regions, numbers = [Region(0, 0, width, height)], [index]
        if random.random() < augmentation.mosaic:
            x, y = (round(side * random.uniform(*MOSAIC_CENTRE)) for side in (width, height))
            regions = [Region(0, 0, x, y), Region(x, 0, width, y), Region(0, y, x, height), Region(x, y, width, height)]
            numbers += random.integers(len(self.pictures), size=3).tolist()
        placed = [self._place(pixels, *one, augmentation, random) for one in zip(regions, numbers, strict=True)]
        boxes, classes = (np.concatenate(parts) for parts in zip(*placed, strict=True))
        if augmentation.horizontal_flip and random.random() < 0.5:
            pixels, boxes = (
                pixels[:, ::-1],
                np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1),
            )
        if augmentation.vertical_flip and random.random() < 0.5:
            pixels, boxes = (
                pixels[::-1],
                np.stack([boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], 1),
            )
        if augmentation.colour:
            pixels = _recoloured(pixels, *random.uniform(1 - augmentation.colour, 1 + augmentation.colour, 3))
        return pixels, boxes, classes

    def _place(
        self,
        pixels: NDArray[np.uint8],
        region: Region,
        number: int,
        augmentation: DetectorAugmentation,
        random: np.random.Generator,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Put a picture of random size at a random place of `region`; return its boxes that show enough there."""
        picture, image = self.pictures[number], self._image(number)
        usual = placement(self._preprocessing, image.width, image.height)
        scale = math.exp(random.uniform(*np.log(augmentation.scale)))
        stretch = math.exp(random.uniform(-0.5, 0.5) * math.log(augmentation.stretch))
        x_scale = usual.width / image.width * scale * stretch
        y_scale = usual.height / image.height * scale / stretch
        x = region.left + (region.right - region.left - image.width * x_scale) * random.random()
        y = region.top + (region.bottom - region.top - image.height * y_scale) * random.random()
        left, top = max(region.left, round(x)), max(region.top, round(y))
        right = min(region.right, max(left + 1, round(x + image.width * x_scale)))
        bottom = min(region.bottom, max(top + 1, round(y + image.height * y_scale)))
        seen = (  # of the picture, in its own pixels
            min(max(0.0, (left - x) / x_scale), image.width - 1),
            min(max(0.0, (top - y) / y_scale), image.height - 1),
            min((right - x) / x_scale, image.width),
            min((bottom - y) / y_scale, image.height),
        )
        size = (right - left, bottom - top)
        pixels[top:bottom, left:right] = resize(image, size, seen, self._preprocessing.interpolation)
        known = ~picture.crowd
        boxes = picture.boxes[known] * np.float32((x_scale, y_scale) * 2) + np.float32((x, y) * 2)
        cut = np.clip(boxes, np.float32((left, top) * 2), np.float32((right, bottom) * 2))
        sides, whole = cut[:, 2:] - cut[:, :2], boxes[:, 2:] - boxes[:, :2]
        kept = (sides >= LEAST_SIDE).all(1) & (sides.prod(1) >= LEAST_VISIBLE * whole.prod(1))
        return cut[kept], picture.classes[known][kept]

    def _check(self, number: int) -> None:
        """Decode a picture, unless that was done before."""
        if number not in self._checked:
            decoded(self.pictures[number], self._preprocessing)
            self._checked.add(number)

    def _image(self, number: int) -> Image.Image:
        """The upright picture, decoded once if there is room for it."""
        if (image := self._decoded.get(number)) is not None:
            return image
        image = decoded(self.pictures[number], self._preprocessing)
        size = image.width * image.height * 3
        with self._lock:
            if self._free >= size and number not in self._decoded:
                self._free -= size
                self._decoded[number] = image
        return image


def decoded(picture: Picture, preprocessing: Preprocessing) -> Image.Image:
    """The upright picture in RGB.

    Raises:
        ValueError: it cannot be read, or is of another size than the instances file says.
    """
    try:
        image = decode(
            _bytes(picture),
            max_pixels=MAX_PIXELS,
            background=preprocessing.background,
            exif_orientation=preprocessing.exif_orientation,
        )
    except ImageError as error:
        raise ValueError(f"{picture.path}: {error}") from error
    if image.size != (picture.width, picture.height):
        raise ValueError(
            f"{picture.path}: expected {picture.width}x{picture.height} pixels, as listed, "
            f"found {image.width}x{image.height}"
        )
    return image


def _bytes(picture: Picture) -> bytes:
    try:
        return picture.path.read_bytes()
    except OSError as error:
        raise ValueError(f"{picture.path}: expected a readable file, found: {error.strerror or error}") from error


def _recoloured(pixels: NDArray[np.uint8], brightness: float, contrast: float, saturation: float) -> NDArray[np.uint8]:
    """Multiply brightness, contrast and saturation by these."""
    values = pixels.astype(np.float32)  # (H, W, 3)
    grey = values @ GREY  # (H, W)
    values = grey[..., None] * (1 - saturation) + values * saturation
    values = (values * contrast + grey.mean() * (1 - contrast)) * brightness
    return values.clip(0, 255).astype(np.uint8)
