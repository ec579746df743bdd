"""Pictures and boxes in COCO's format --> what there is to find in each picture.

    DIR/instances_train.json          or DIR/annotations/instances_train2017.json
    DIR/instances_val.json            (or test)
    DIR/images/*.jpg                  or DIR/train2017/*.jpg, DIR/images/train2017/*.jpg

`instances.json` alone is for training and for testing. Numbers of categories need not follow each other; the labels are
their names in the order of the numbers.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from aaserve.bundle.files.text import is_one_line, read_text

LAYOUT = "instances_train.json and instances_val.json (or instances_test.json), or instances.json alone, and images/"
TEST_SPLITS = ("val", "test")  # the first that exists
LEAST_SIDE = 1e-3  # pixels of a box; narrower ones are empty

Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]


class _Image(BaseModel):
    id: int
    file_name: str = Field(min_length=1)
    width: int = Field(ge=1)
    height: int = Field(ge=1)


class _Annotation(BaseModel):
    image_id: int
    category_id: int
    bbox: tuple[Number, Number, Number, Number]  # left, top, width, height
    iscrowd: bool = False


class _Category(BaseModel):
    id: int
    name: str


class _Instances(BaseModel):
    images: list[_Image] = Field(min_length=1)
    annotations: list[_Annotation]
    categories: list[_Category] = Field(min_length=1)


@dataclass(frozen=True)
class Picture:
    """A picture of `width` x `height` pixels and the boxes in it: left, top, right, bottom, none of them empty.

    A crowd's box holds many things that are not told apart: it is neither learned nor held against a detector.
    """

    path: Path
    width: int
    height: int
    boxes: NDArray[np.float32]  # (n, 4)
    classes: NDArray[np.int64]  # (n,)
    crowd: NDArray[np.bool_]  # (n,)


@dataclass(frozen=True)
class Split:
    """The pictures of an instances file in its order, and how many boxes were changed or left out, by reason."""

    file: Path
    labels: tuple[str, ...]
    pictures: tuple[Picture, ...]
    changed: Counter[str]

    def __str__(self) -> str:
        boxes = sum(len(picture.boxes) for picture in self.pictures)
        text = f"{self.file.name}: {len(self.pictures):,} pictures, {boxes:,} boxes of {len(self.labels):,} classes"
        if empty := sum(not len(picture.boxes) for picture in self.pictures):
            text += f"; {empty:,} pictures without boxes"
        seen = {int(number) for picture in self.pictures for number in picture.classes[~picture.crowd]}
        if seen and (unseen := [label for number, label in enumerate(self.labels) if number not in seen]):
            text += f"; no boxes of {len(unseen):,} classes ({some(unseen)})"
        return "".join([text, *(f"; {count:,} boxes {what}" for what, count in self.changed.items())])


def find_split(folder: Path, name: str) -> tuple[Path, Path] | None:
    """The instances file and the folder of pictures of a split; None if there is no such split.

    Args:
        name: "train", "val", "test", or "" for `instances.json`.

    Raises:
        ValueError: several files fit; FileNotFoundError: the file is there and no folder of pictures.
    """
    pattern = f"instances_{name}*.json" if name else "instances.json"
    files = [path for place in (folder, folder / "annotations") for path in sorted(place.glob(pattern))]
    if not files:
        return None
    if len(files) > 1:
        raise ValueError(f"{folder}: expected one {pattern}, found {', '.join(path.name for path in files)}")
    own = files[0].stem.removeprefix("instances").removeprefix("_")
    places = [folder / "images" / own, folder / own, folder / "images"] if own else [folder / "images"]
    for place in places:
        if place.is_dir():
            return files[0], place
    raise FileNotFoundError(f"{folder / 'images'}: expected the folder of the pictures of {files[0].name}, found none")


def read_split(file: Path, images: Path) -> Split:
    """Read an instances file. Boxes are cut off at the edges of their pictures; those without an area are left out.

    Raises:
        ValueError: not such a file, or one that contradicts itself; FileNotFoundError: a listed picture is missing.
    """
    try:
        content = _Instances.model_validate_json(read_text(file))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{file}: {place + ': ' if place else ''}{first['msg']}") from error
    labels, numbers = _labels(content.categories, file)
    numbers_of_images = {image.id: number for number, image in enumerate(content.images)}
    if len(numbers_of_images) < len(content.images):
        raise ValueError(f"{file}: expected images of different ids, found two of one id")
    found: list[list[tuple[NDArray[np.float32], int, bool]]] = [[] for _ in content.images]
    changed: Counter[str] = Counter()
    for number, annotation in enumerate(content.annotations):
        if annotation.category_id not in numbers:
            raise ValueError(f"{file}: annotations.{number}: category_id {annotation.category_id} is not in categories")
        if annotation.image_id not in numbers_of_images:
            raise ValueError(f"{file}: annotations.{number}: image_id {annotation.image_id} is not in images")
        index = numbers_of_images[annotation.image_id]
        box = _clipped(annotation.bbox, content.images[index], changed)
        if box is not None:
            found[index].append((box, numbers[annotation.category_id], annotation.iscrowd))
    if crowds := sum(crowd for boxes in found for _, _, crowd in boxes):
        changed["of crowds, which are not learned"] = crowds
    pictures = [
        _picture(images / image.file_name, image, boxes) for image, boxes in zip(content.images, found, strict=True)
    ]
    if missing := [picture.path for picture in pictures if not picture.path.is_file()]:
        more = f", nor are {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{missing[0]}: listed in {file.name} and not there{more}")
    return Split(file, labels, tuple(pictures), changed)


def has_boxes(pictures: Iterable[Picture]) -> bool:
    """Whether there is anything to find: a box of a crowd is not."""
    return any((~picture.crowd).any() for picture in pictures)


def check_boxes(split: Split) -> None:
    """Raise ValueError if there is nothing to find in the pictures."""
    if not has_boxes(split.pictures):
        crowds = " but those of crowds" if any(len(picture.boxes) for picture in split.pictures) else ""
        raise ValueError(f"{split.file}: expected boxes, found none{crowds}")


def check_same_labels(training: Split, test: Split) -> None:
    """Raise ValueError if the splits have other categories."""
    if training.labels != test.labels:
        raise ValueError(
            f"{test.file}: expected the {len(training.labels)} categories of {training.file.name}, in the order of "
            f"their ids ({some(training.labels)}), found {len(test.labels)}: {some(test.labels)}"
        )


def _labels(categories: Sequence[_Category], file: Path) -> tuple[tuple[str, ...], dict[int, int]]:
    """Names in the order of the ids, and the class of each id."""
    ordered = sorted(categories, key=lambda category: category.id)
    for what, values in (("ids", [one.id for one in ordered]), ("names", [one.name for one in ordered])):
        if twice := [value for value, count in Counter(values).items() if count > 1]:
            raise ValueError(f"{file}: expected categories of different {what}, found {twice[0]!r} twice")
    for category in ordered:
        if not is_one_line(category.name) or not category.name.strip():
            raise ValueError(f"{file}: expected a line of text as a category's name, found {category.name!r}")
    return tuple(one.name for one in ordered), {one.id: number for number, one in enumerate(ordered)}


def _clipped(
    bbox: tuple[float, float, float, float], image: _Image, changed: Counter[str]
) -> NDArray[np.float32] | None:
    """The part of a box that is in its picture; None if that is empty."""
    left, top, width, height = bbox
    if width < LEAST_SIDE or height < LEAST_SIDE:
        changed["left out, without an area"] += 1
        return None
    box = np.array((left, top, left + width, top + height))
    inside = box.clip(0, (image.width, image.height) * 2)
    if (inside[2:] - inside[:2] < LEAST_SIDE).any():
        changed["left out, outside of their pictures"] += 1
        return None
    if np.abs(inside - box).max() > 1:  # rounding alone makes up to one pixel
        changed["cut off at the edges of their pictures"] += 1
    return inside.astype(np.float32)


def _picture(path: Path, image: _Image, found: Sequence[tuple[NDArray[np.float32], int, bool]]) -> Picture:
    boxes = np.array([box for box, _, _ in found], np.float32).reshape(-1, 4)
    classes = np.array([number for _, number, _ in found], np.int64)
    return Picture(
        path, image.width, image.height, boxes, classes, np.array([crowd for _, _, crowd in found], np.bool_)
    )


def some(labels: Sequence[str]) -> str:
    """The first of them, for a message."""
    return ", ".join(labels[:5]) + (", …" if len(labels) > 5 else "")
