"""What the outputs of a detection network mean: boxes, scores, classes and a count --> labelled boxes in a picture."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import TypedDict

from aaserve.bundle.manifest import Manifest
from aaserve.bundle.pictures.fitting import has_area, placement, to_picture
from aaserve.service.errors import InvalidParameter

SCORE_THRESHOLD = 0.5
BOXES = "boxes"
_DIGITS = 2  # of a coordinate, in pixels


class Size(TypedDict):
    """Of the upright picture, in pixels."""

    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]


class Box(TypedDict):
    """In pixels of the upright picture, from its upper left corner."""

    left: Annotated[float, Field(ge=0)]
    top: Annotated[float, Field(ge=0)]
    right: Annotated[float, Field(ge=0)]
    bottom: Annotated[float, Field(ge=0)]


class Detection(TypedDict):
    """One object."""

    label: str
    class_index: Annotated[int, Field(ge=0)]
    score: Annotated[float, Field(ge=0, le=1)]
    box: Box


class DetectionsWanted(NamedTuple):
    """Which of the detections an answer has."""

    score_threshold: float
    max_detections: int


def detections_wanted(
    score_threshold: float | None, max_detections: int | None, manifest: Manifest
) -> DetectionsWanted:
    """What a request asks for; without a threshold SCORE_THRESHOLD, without a number all that the model finds.

    Raises:
        InvalidParameter: the model never finds so many.
    """
    most = manifest.outputs[0].shape[0]
    if max_detections is not None and max_detections > most:
        raise InvalidParameter(f"max_detections must be 1 to {most} for {manifest.name}, found {max_detections}")
    return DetectionsWanted(
        SCORE_THRESHOLD if score_threshold is None else score_threshold,
        most if max_detections is None else max_detections,
    )


def detections(
    row: Mapping[str, NDArray[Any]], manifest: Manifest, size: tuple[int, int], wanted: DetectionsWanted
) -> list[Detection]:
    """Return the detections in one row of the model's outputs, the best score first.

    Boxes that lie outside of the picture, in the background beside it, are left out.

    Args:
        size: (width, height) of the upright picture.
    """
    count, labels = int(row["count"]), manifest.labels
    scores, classes = row["scores"][:count], row["classes"][:count]
    boxes = in_picture(row[BOXES][:count], manifest, size).round(_DIGITS)
    shown = has_area(boxes) & (scores >= np.float32(wanted.score_threshold))
    best = (-scores).argsort(kind="stable")
    best = best[shown[best]][: wanted.max_detections]
    return [
        {
            "label": labels[index],
            "class_index": index,
            "score": score,
            "box": {"left": left, "top": top, "right": right, "bottom": bottom},
        }
        for index, score, (left, top, right, bottom) in zip(
            classes[best].tolist(), scores[best].tolist(), boxes[best].tolist(), strict=True
        )
    ]


def in_picture(boxes: NDArray[Any], manifest: Manifest, size: tuple[int, int]) -> NDArray[np.float64]:
    """Boxes (..., 4) of the input in pixels of the upright picture of `size` (width, height), clipped to it."""
    return to_picture(boxes, placement(manifest.preprocessing, *size), *size)


def in_pictures(
    outputs: Mapping[str, NDArray[Any]], manifest: Manifest, sizes: Sequence[tuple[int, int]]
) -> dict[str, NDArray[Any]]:
    """The model's outputs (N, ...), with their boxes in pixels of the upright pictures of these sizes; zeros stay."""
    boxes = np.zeros_like(outputs[BOXES])
    for row, (size, count) in enumerate(zip(sizes, outputs["count"].tolist(), strict=True)):
        boxes[row, :count] = in_picture(outputs[BOXES][row, :count], manifest, size)
    return {**outputs, BOXES: boxes}
