"""What to export, from the command line."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aaserve.bundle.files.shipped import PHOTOGRAPHS
from aaserve.bundle.manifest import Accuracy, Precision, StoredWeights


@dataclass(frozen=True)
class Measurement:
    """An accuracy, and the sha256 of the model file for which it was measured."""

    accuracy: Accuracy
    model_sha256: str


@dataclass(frozen=True)
class Selection:
    """Which detections a graph answers.

    Args:
        score_threshold: of lower scores, none.
        iou_threshold: of two of one class that overlap by more, the better one.
        max_detections: D, the most of a picture.
    """

    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    max_detections: int = 100


@dataclass(frozen=True)
class Request:
    """One export. None: use the checkpoint's metadata or the default.

    Args:
        architecture: one of our networks, or package.module:function, which is called with the options.
        preprocessing: the fields that a preset or a file defines.
        preprocessing_fields: fields that replace those of `preprocessing` or of the checkpoint.
        key_prefix: use only weights with this prefix, and remove it.
        calibration: folder of pictures for calibrating int8 and for comparing fp16 or int8 with fp32.
        allowed_drop: percentage points of top-1, or of agreeing detections, that fp16 or int8 may lose.
        selection: which detections the graph of a detector answers.
        selection_options: the options that `selection` was typed with; for detectors only.
    """

    checkpoint: Path
    name: str
    version: str
    repository: Path
    command: str
    architecture: str | None = None
    architecture_options: Mapping[str, object] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    preprocessing: Mapping[str, object] | None = None
    preprocessing_fields: Mapping[str, object] = field(default_factory=dict)
    num_classes: int | None = None
    nested_key: str | None = None
    key_prefix: str | None = None
    image_size: tuple[int, int] | None = None
    pixel_input: bool = True
    with_attention: bool = False
    precision: Precision = "fp32"
    selection: Selection = field(default_factory=Selection)
    selection_options: tuple[str, ...] = ()
    stored_weights: StoredWeights = "float32"
    calibration: Path | None = None
    allowed_drop: float = 1.0
    parity_images: Path = PHOTOGRAPHS
    max_batch_size: int = 32
    store_reference_pictures: bool = False
    accuracy: Measurement | None = None
    replace: bool = False
