"""COCO's average precision of a detector on annotated pictures. Needs no torch."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from aaserve.bundle.coco.average_precision import DetectionScore, average_precision, in_picture
from aaserve.bundle.coco.instances import TEST_SPLITS, Picture, Split, find_split, read_split, some
from aaserve.bundle.detections import detections_of_batch
from aaserve.bundle.manifest import Manifest
from aaserve.export.accuracy.answers import Run, answers
from aaserve.export.errors import ExportError

SPLITS = ("train", *TEST_SPLITS)


def find_annotated(
    folder: Path, names: Sequence[str], labels: Sequence[str], report: Callable[[str], None]
) -> Split | None:
    """The first of the splits `names` that is in a folder of COCO's layout; None if there is none of them.

    `report` is told what is in it.

    Raises:
        ExportError: its categories are not the labels. ValueError, OSError: as `find_split` and `read_split`.
    """
    place = next(filter(None, (find_split(folder, name) for name in names)), None)
    if place is None:
        return None
    split = read_split(*place)
    if split.labels != tuple(labels):
        raise ExportError(
            f"{split.file}: expected the {len(labels)} labels of the model as categories, in the order of their ids "
            f"({some(labels)}), found {len(split.labels)}: {some(split.labels)}"
        )
    report(str(split))
    return split


def score_boxes(run: Run, manifest: Manifest, batches: Iterable[Sequence[Picture]]) -> DetectionScore:
    """Let a detector answer annotated pictures.

    Raises:
        ExportError: as `answers`, or a picture is of another size than listed. ValueError: no picture has a box.
    """
    pictures, found = [], []
    for batch, sizes, outputs in answers(run, manifest, batches):
        for picture, size, one in zip(batch, sizes, detections_of_batch(outputs), strict=True):
            if size != (picture.width, picture.height):
                raise ExportError(
                    f"{picture.path}: expected {picture.width}x{picture.height} pixels, as listed, "
                    f"found {size[0]}x{size[1]}"
                )
            pictures.append(picture)
            found.append(in_picture(one, picture, manifest.preprocessing))
    return average_precision(pictures, dict(enumerate(found)), len(manifest.labels))
