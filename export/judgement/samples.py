"""--calibration DIR --> pictures for calibration, and others for the comparison with fp32.

    DIR/*.png           pictures without labels
    DIR/LABEL/*.png     labelled pictures; the folders are named after the labels of the model, and pictures in folders
                        below them have the same label
    instances_*.json    of a detector: annotated pictures, as `bundle.coco.instances` reads them; those of train
                        calibrate, and those of val or test are compared

Calibration takes at most every second picture, spread evenly over the sorted paths, so that it has all labels.
The others are for the comparison with fp32: pictures used for calibration say little about the loss.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aaserve.bundle.coco.instances import TEST_SPLITS, Split, check_boxes, has_boxes
from aaserve.bundle.coco.instances import Picture as AnnotatedPicture
from aaserve.bundle.pictures.picture_files import find_pictures, told, total
from aaserve.bundle.preprocessing import Preprocessing
from aaserve.export.accuracy.boxes import find_annotated
from aaserve.export.errors import ExportError
from aaserve.export.judgement.pictures import read_picture

# More pictures only widen the ranges: with 100, 240 and 500 pictures the shipped network agreed with fp32 on 97.4 %,
# 97.4 % and 97.2 % of 9,500 other pictures (docs/decisions/0008-precision.md).
CALIBRATION_PICTURES = 256
BATCH_SIZE = 8


@dataclass(frozen=True)
class Sample:
    """A picture's file, and its class index or the boxes in it, if known."""

    path: Path
    class_index: int | None = None
    annotated: AnnotatedPicture | None = None


def find_samples(folder: Path, labels: Sequence[str], report: Callable[[str], None]) -> list[Sample]:
    """Every picture in `folder`, sorted by path; either all have labels or none. `report` gets a summary.

    Raises:
        ExportError: fewer than two pictures, pictures both with and without a label folder, or a folder whose name is
            not a label.
        ValueError: something cannot be read, or a file with a picture's suffix is not a picture.
    """
    found = find_pictures(folder)
    if found.pictures and found.folders:
        raise ExportError(
            f"{folder}: expected pictures or folders of pictures, found both: "
            f"{len(found.pictures)} pictures and {len(found.folders)} folders"
        )
    indices = {label: index for index, label in enumerate(labels)}
    for path in found.folders:
        if path.name not in indices:
            raise ExportError(
                f"{path}: expected a folder named as one of the {len(labels)} labels, found {path.name!r}"
            )
    named = {path: find_pictures(path, deeper=True) for path in found.folders}
    samples = [Sample(path) for path in found.pictures]
    samples += [Sample(path, indices[parent.name]) for parent, inside in named.items() for path in inside.pictures]
    if len(samples) < 2:
        raise ExportError(
            f"{folder}: expected two pictures or more, here or in folders named as labels, found {len(samples)}"
        )
    left_out = total([found.left_out, *(inside.left_out for inside in named.values())])
    with_pictures = sum(bool(inside.pictures) for inside in named.values())
    text = f"{len(samples):,} pictures in {folder}"
    text += f", of {with_pictures} of the {len(labels)} labels" if named else ", without labels"
    report(f"{text}; {told(left_out)}" if left_out else text)
    return samples


def find_annotated_samples(
    folder: Path, labels: Sequence[str], report: Callable[[str], None]
) -> tuple[list[Sample], list[Sample]] | None:
    """Annotated pictures for calibration, and others for the comparison with fp32; None if nothing there is annotated.

    Raises:
        ExportError: fewer than two pictures. ValueError: no boxes to compare by. Both and OSError: as `find_annotated`.
    """
    training, test = (find_annotated(folder, names, labels, report) for names in (("train", ""), TEST_SPLITS))
    if training and test:
        check_boxes(test)
        samples = _annotated(training)
        return [samples[index] for index in _spread(len(samples), CALIBRATION_PICTURES)], _annotated(test)
    if not (found := training or test):
        return None
    if len(found.pictures) < 2:
        raise ExportError(f"{found.file}: expected two pictures or more, found {len(found.pictures)}")
    check_boxes(found)
    calibrating, judging = split_samples(_annotated(found))
    if not has_boxes(sample.annotated for sample in judging if sample.annotated):
        raise ExportError(
            f"{found.file}: expected boxes in the pictures that do not calibrate ({len(judging)}), found none"
        )
    return calibrating, judging


def _annotated(split: Split) -> list[Sample]:
    return [Sample(picture.path, annotated=picture) for picture in split.pictures]


def split_samples(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Samples for calibration, and samples for the comparison with fp32."""
    chosen = set(_spread(len(samples), min(CALIBRATION_PICTURES, len(samples) // 2)))
    calibrating = [sample for index, sample in enumerate(samples) if index in chosen]
    return calibrating, [sample for index, sample in enumerate(samples) if index not in chosen]


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` of `count` indices, evenly apart."""
    most = min(count, most)
    return [index * count // most for index in range(most)]


def check_readable(samples: Sequence[Sample], preprocessing: Preprocessing) -> None:
    """Decode each picture once, so that a bad one is found before the work that takes long.

    Raises:
        ExportError: a picture does not decode.
    """

    def check(sample: Sample) -> None:
        read_picture(sample.path, preprocessing)

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(check, samples):
            pass


def read_batches(samples: Sequence[Sample], preprocessing: Preprocessing) -> Iterator[NDArray[np.uint8]]:
    """Yield the pixels (B, H, W, 3) of BATCH_SIZE pictures at a time; the last batch may be smaller.

    Raises:
        ExportError: a picture does not decode.
    """
    for start in range(0, len(samples), BATCH_SIZE):
        batch = samples[start : start + BATCH_SIZE]
        yield np.stack([read_picture(sample.path, preprocessing).pixels for sample in batch])
