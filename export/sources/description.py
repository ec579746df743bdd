"""What an export is about: request and checkpoint --> architecture, labels, preprocessing. Nothing is guessed."""

from dataclasses import dataclass
from typing import Any

from aaserve.bundle.preprocessing import Preprocessing
from aaserve.export.errors import ExportError
from aaserve.export.preprocessing.image_size import preprocessing_at
from aaserve.export.preprocessing.presets import choose_preprocessing
from aaserve.export.request import Request
from aaserve.export.sources.checkpoint import Checkpoint
from aaserve.export.sources.labels import check_labels
from aaserve.export.sources.recorded import read_recorded


@dataclass(frozen=True)
class Description:
    """One network and its input.

    Args:
        options: further arguments of `create_model` that the network was trained with.
    """

    architecture: str
    options: dict[str, Any]
    labels: tuple[str, ...]
    preprocessing: Preprocessing


def describe(request: Request, checkpoint: Checkpoint) -> Description:
    """Take what the user typed, or else what `python -m training` wrote into the checkpoint.

    Raises:
        ExportError: neither has what is needed, or what the checkpoint records is damaged.
    """
    recorded = read_recorded(checkpoint)
    architecture = request.architecture or recorded.architecture
    labels = request.labels or check_labels(recorded.labels, checkpoint.path)
    stated = request.preprocessing or recorded.preprocessing or request.preprocessing_fields
    needed = [
        option
        for value, option in ((architecture, "--arch"), (labels, "--labels"), (stated, "--preprocessing"))
        if not value
    ]
    if needed or architecture is None:
        *others, last = needed
        options = f"{', '.join(others)} and {last} are" if others else f"{last} is"
        raise ExportError(f"{options} needed: {checkpoint.path} does not record {'them' if others else 'it'}")
    preprocessing = choose_preprocessing(request.preprocessing, recorded.preprocessing, request.preprocessing_fields)
    if request.image_size:
        preprocessing = preprocessing_at(preprocessing, request.image_size)
    return Description(architecture, recorded.options(architecture), labels, preprocessing)
