"""Pictures named by their class number, from several sources; used for distillation.

    DIR/train/SOURCE/0281_1.jpg    DIR/held_out/SOURCE/0281_2.jpg

A teacher needs no labels, so pictures in train/ may have any name.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aaserve.bundle.files.text import read_text
from aaserve.bundle.pictures.picture_files import find_pictures, told, total
from aaserve.training.recipe import Recipe

UNKNOWN = -1  # class of a picture whose name has no number


@dataclass(frozen=True)
class Numbered:
    """Pictures, their classes, int64 (N,), and the folder of each."""

    folder: Path
    paths: tuple[Path, ...]
    classes: NDArray[np.int64]
    sources: tuple[str, ...]
    left_out: Counter[str]

    def __str__(self) -> str:
        counts = ", ".join(f"{count:,} of {source}" for source, count in Counter(self.sources).items())
        unknown = int((self.classes == UNKNOWN).sum())
        text = f"{self.folder.name}/: {len(self.paths):,} pictures: {counts}"
        text += f"; {unknown:,} without a class" if unknown else ""
        return f"{text}; {told(self.left_out)}" if self.left_out else text

    def by_source(self) -> dict[str, "Numbered"]:
        """The pictures of each source."""
        return {source: self._of(source) for source in dict.fromkeys(self.sources)}

    def _of(self, source: str) -> "Numbered":
        rows = [row for row, other in enumerate(self.sources) if other == source]
        return Numbered(
            self.folder, tuple(self.paths[row] for row in rows), self.classes[rows], (source,) * len(rows), Counter()
        )


def read_numbered(folder: Path, num_classes: int, *, needed: bool) -> Numbered:
    """Find the pictures in the folders of `folder`.

    Args:
        needed: each picture must have a class.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no pictures, or a needed class number is missing in a name.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected folders of pictures such as SOURCE/0281_1.jpg, found no folder")
    found = find_pictures(folder)
    inside = {path.name: find_pictures(path, deeper=True) for path in found.folders}
    pictures = [(path, folder.name) for path in found.pictures]
    pictures += [(path, source) for source, contents in inside.items() for path in contents.pictures]
    if not pictures:
        raise ValueError(f"{folder}: expected pictures, found none")
    classes = [_class_of(path, num_classes) for path, _ in pictures]
    if needed and UNKNOWN in classes:
        raise ValueError(
            f"{pictures[classes.index(UNKNOWN)][0]}: expected a name that begins with the number of its class, "
            f"0 to {num_classes - 1}, and an underscore; {classes.count(UNKNOWN):,} pictures have none"
        )
    return Numbered(
        folder,
        tuple(path for path, _ in pictures),
        np.array(classes, dtype=np.int64),
        tuple(source for _, source in pictures),
        total([found.left_out, *(contents.left_out for contents in inside.values())]),
    )


def class_names(recipe: Recipe) -> tuple[str, ...]:
    """Class names for pictures named by numbers, from the recipe's file; none if the recipe names no file.

    Raises:
        OSError: no such file; ValueError: an empty or repeated name.
    """
    if not recipe.distillation or not recipe.distillation.labels:
        return ()
    path = Path(recipe.distillation.labels)
    labels = tuple(line.strip() for line in read_text(path).rstrip().split("\n"))
    if len(set(labels)) < len(labels) or "" in labels:
        raise ValueError(f"{path}: expected a different name in each line")
    return labels


def _class_of(path: Path, num_classes: int) -> int:
    number = re.match(r"(\d+)_", path.name)
    return int(number[1]) if number and int(number[1]) < num_classes else UNKNOWN
