"""What to export, as typed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bundle.manifest import Accuracy, Precision
from bundle.preprocessing import Preprocessing


@dataclass(frozen=True)
class Measurement:
    """Accuracy, and the sha256 of the model file it was measured with."""

    accuracy: Accuracy
    model_sha256: str


@dataclass(frozen=True)
class Request:
    """One export. Architecture, labels and preprocessing may come from the checkpoint's own metadata.

    Args:
        preprocessing_fields: fields of the preprocessing that replace those of `preprocessing` or of the checkpoint.
        key_prefix: of the names of the weights; those without it are left out.
        fused_attention: attention as one operator, for GPUs.
        calibration: folder of pictures to calibrate with and to judge a lower precision by.
        allowed_drop: points of top-1 that a lower precision may lose.
    """

    checkpoint: Path
    name: str
    version: str
    repository: Path
    command: str
    architecture: str | None = None
    labels: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    preprocessing_fields: Mapping[str, object] = field(default_factory=dict)
    num_classes: int | None = None
    nested_key: str | None = None
    key_prefix: str | None = None
    image_size: tuple[int, int] | None = None
    pixel_input: bool = True
    with_attention: bool = False
    fused_attention: bool = False
    precision: Precision = "fp32"
    calibration: Path | None = None
    allowed_drop: float = 1.0
    parity_images: Path = Path("examples")
    max_batch_size: int = 32
    accuracy: Measurement | None = None
    replace: bool = False
