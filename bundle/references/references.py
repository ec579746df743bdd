"""references.json: PyTorch's answers to known pictures, so that a bundle can be checked without PyTorch."""

from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from aaserve.bundle.detections import Detections
from aaserve.bundle.detections import difference as compare
from aaserve.bundle.errors import BundleError
from aaserve.bundle.files.text import NotText, decode_text
from aaserve.bundle.manifest import Manifest


class StoredDetections(BaseModel):
    """The detections in one picture, like `bundle.detections.Detections`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    boxes: tuple[tuple[float, float, float, float], ...]
    scores: tuple[float, ...]
    classes: tuple[int, ...]

    @property
    def arrays(self) -> Detections:
        """The same as arrays."""
        boxes = np.asarray(self.boxes, np.float32).reshape(-1, 4)
        return Detections(boxes, np.asarray(self.scores, np.float32), np.asarray(self.classes, np.int64))

    @model_validator(mode="after")
    def _same_number(self) -> Self:
        if not len(self.boxes) == len(self.scores) == len(self.classes):
            raise ValueError("expected as many scores and classes as boxes")
        return self


class Reference(BaseModel):
    """One picture and PyTorch's answer, or the probe and the graph's answer on the exporting machine.

    The answer is logits. In a bundle for detection it is detections, always those of the graph: of two boxes that tie,
    PyTorch may keep the other one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    picture: str = Field(pattern=r"^[^/\\]+$", description="File name.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the picture's bytes, or of the probe's pixels.")
    logits: tuple[float, ...] = ()
    detections: StoredDetections | None = None
    attention: dict[str, tuple[tuple[float, float], ...]] = Field(
        {}, description="In bundles with attention maps: `gaze` of each head, by layer."
    )

    @model_validator(mode="after")
    def _one_answer(self) -> Self:
        if bool(self.logits) == (self.detections is not None):
            raise ValueError("expected logits or detections")
        return self


_GOLDEN_RATIO = (5**0.5 - 1) / 2  # the fractional parts of its multiples are spread evenly over 0..1 and never repeat
_REFERENCES = TypeAdapter(tuple[Reference, ...])


def read_references(path: Path) -> tuple[Reference, ...]:
    """Read references.json.

    Raises:
        BundleError: unreadable or malformed; one line.
    """
    try:
        return parse_references(path.read_bytes(), path)
    except OSError as error:
        raise BundleError(f"{path}: expected a readable file, found: {error.strerror or error}") from error


def parse_references(content: bytes, path: Path) -> tuple[Reference, ...]:
    """Parse the bytes of references.json; `path` is for messages.

    Raises:
        BundleError: malformed; one line.
    """
    try:
        return _REFERENCES.validate_json(decode_text(content))
    except NotText as error:
        raise BundleError(f"{path}: {error}") from error
    except ValidationError as error:
        raise BundleError(
            f"{path}: expected references (picture, sha256, logits or detections), found something else"
        ) from error


def difference(found: NDArray[np.float32], reference: Reference) -> float:
    """Largest difference of any logit, relative to the largest logit or 1."""
    expected = np.asarray(reference.logits)
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def detection_difference(found: Detections, reference: Reference, manifest: Manifest, *, tolerance: float) -> float:
    """Largest difference of the score of any detection; one that the other answer has not counts with its score.

    Two boxes of the same object are told apart by nothing but their scores: where these are nearly equal, another
    machine may keep the other one. They overlap by more than the threshold of the suppression, which is why that is
    enough here.

    Args:
        tolerance: detections whose scores are not so far above the threshold of the graph are left out.
    """
    expected, suppression = reference.detections, manifest.suppression
    if expected is None or suppression is None:
        return inf
    return compare(
        found,
        expected.arrays,
        score_threshold=suppression.score_threshold + tolerance,
        least_iou=suppression.iou_threshold,
    ).score


def attention_difference(maps: Mapping[str, NDArray[np.floating]], reference: Reference, manifest: Manifest) -> float:
    """Largest difference of any gaze, as a share of the picture; infinite if the layers differ from the stored ones.

    Args:
        maps: (heads, queries, keys) of each layer of the manifest.
    """
    if set(maps) != set(reference.attention):
        return inf
    differences = []
    for attention in manifest.attention:
        expected = np.asarray(reference.attention[attention.layer])
        found = gaze(maps[attention.layer], attention.grid)
        differences.append(np.abs(found - expected).max() if found.shape == expected.shape else inf)
    return float(np.max(differences))  # NaN if a map is not finite


def gaze(maps: NDArray[np.floating], grid: tuple[int, int]) -> NDArray[np.float64]:
    """Where each head of `maps` (heads, queries, keys) looks on average: (heads, 2), row and column in 0..1.

    A summary in a few numbers, enough to notice a different map. Queries have different weights, neighbours the most
    different ones, so that rows in another order have another gaze.
    """
    height, width = grid
    rows, columns = np.divmod(np.arange(height * width), width)
    centres = np.stack([(rows + 0.5) / height, (columns + 0.5) / width], axis=1)  # (N, 2)
    weights = np.arange(1, height * width + 1) * _GOLDEN_RATIO % 1  # (N,)
    weights /= weights.sum()
    gazes: NDArray[np.float64] = weights @ (maps.astype(np.float64) @ centres)  # (heads, 2)
    return gazes


def references_json(references: tuple[Reference, ...]) -> bytes:
    """The bytes of references.json."""
    return _REFERENCES.dump_json(references, indent=1, exclude_defaults=True) + b"\n"
