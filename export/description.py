"""What an export is about: request and checkpoint --> architecture, labels, preprocessing. Nothing is guessed."""

from dataclasses import dataclass
from typing import Any

from bundle.preprocessing import Preprocessing
from export.checkpoint import Checkpoint
from export.errors import ExportError
from export.image_size import preprocessing_at
from export.presets import choose_preprocessing
from export.request import Request
from export.weights import head_classes


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
        ValueError: no such architecture.
        ExportError: neither has what is needed, or the checkpoint's head has another number of classes.
    """
    recipe = checkpoint.metadata.get("recipe", {})
    network = recipe.get("network", {})
    architecture = request.architecture or network.get("architecture")
    labels = request.labels or tuple(checkpoint.metadata.get("labels", ()))
    for value, option in ((architecture, "--arch"), (labels, "--labels")):
        if not value:
            raise ExportError(f"{option} is needed: {checkpoint.path} does not record it")
    preprocessing = choose_preprocessing(
        request.preprocessing, recipe.get("preprocessing"), request.preprocessing_fields
    )
    if request.image_size:
        preprocessing = preprocessing_at(preprocessing, request.image_size)
    found = head_classes(architecture, checkpoint.weights)
    for expected, source in ((len(labels), "labels"), (request.num_classes, "--num-classes")):
        if expected is not None and expected != found:
            raise ExportError(f"{checkpoint.path}: expected a head of {expected} classes ({source}), found {found}")
    options = network.get("options", {}) if network.get("architecture") == architecture else {}
    return Description(architecture, options, labels, preprocessing)
