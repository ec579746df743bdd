"""Request and checkpoint --> architecture, labels and preprocessing of an export. Nothing is guessed."""

from dataclasses import dataclass
from typing import Any

from aaserve.bundle.preprocessing import Preprocessing
from aaserve.export.errors import ExportError
from aaserve.export.preprocessing.presets import choose_preprocessing, preprocessing_at
from aaserve.export.request import Request
from aaserve.export.sources.checkpoint import Checkpoint
from aaserve.export.sources.factory import is_own
from aaserve.export.sources.labels import check_labels
from aaserve.export.sources.onnx_file import OnnxFile
from aaserve.export.sources.recorded import read_recorded
from aaserve.models import is_detector

# For a graph that normalises uint8 pixels itself: no further normalisation.
AS_THEY_ARE = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}


@dataclass(frozen=True)
class Description:
    """One network and its input.

    Args:
        options: further arguments of `create_model` from the training, or all arguments of a user's function.
    """

    architecture: str
    options: dict[str, Any]
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    is_detector: bool = False


def describe(request: Request, checkpoint: Checkpoint) -> Description:
    """Use the command line, or else what `python -m training` wrote into the checkpoint.

    Raises:
        ExportError: neither has the needed information, or the checkpoint's metadata are damaged.
    """
    recorded = read_recorded(checkpoint)
    architecture = request.architecture or recorded.architecture
    if architecture and is_own(architecture) and not request.architecture:
        raise ExportError(
            f"{checkpoint.path}: names {architecture}, which is code; give it as --arch if you want to run it"
        )
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
    options = {} if is_own(architecture) else recorded.options(architecture)
    detects = not is_own(architecture) and is_detector(architecture)
    if detects:
        _check_detector(request, preprocessing)
    elif request.selection_options:
        raise ExportError(f"{', '.join(request.selection_options)}: for detectors only, found {architecture}")
    return Description(architecture, {**options, **request.architecture_options}, labels, preprocessing, detects)


def _check_detector(request: Request, preprocessing: Preprocessing) -> None:
    if preprocessing.fit == "crop":
        raise ExportError(
            "preprocessing: a detector needs all of a picture, expected fit stretch or letterbox, found crop; "
            "give --fit stretch or --fit letterbox, whichever it was trained with"
        )
    if request.accuracy:
        raise ExportError("--accuracy: for classifiers only; python -m export evaluate measures a detector's bundle")
    if request.with_attention:
        raise ExportError("--with-attention: for classifiers only, the bundle of a detector has no attention maps")
    if request.stored_weights == "int8":
        raise ExportError("--store-weights int8: rounds Linear layers, and a detector has none; use float16")


def describe_file(request: Request, file: OnnxFile) -> Description:
    """Use the command line: an ONNX file has no labels, and of the preprocessing only the size.

    Raises:
        ExportError: information is missing, or an option is for checkpoints only.
    """
    given = {
        "--arch": request.architecture,
        "--arch-option": request.architecture_options,
        "--nested-key": request.nested_key,
        "--key-prefix": request.key_prefix,
        "--image-size": request.image_size,
        "--with-attention": request.with_attention,
        **dict.fromkeys(request.selection_options, True),
    }
    if unfit := [option for option, value in given.items() if value]:
        raise ExportError(f"{file.path}: is an ONNX file; for checkpoints only: {', '.join(unfit)}")
    if file.dtype == "uint8" and not request.pixel_input:
        raise ExportError(f"{file.path}: takes uint8 pixels, so --input float32 is not possible")
    if request.labels is None:
        raise ExportError(f"--labels is needed: {file.path} does not record them")
    fields = request.preprocessing_fields
    if file.dtype == "uint8":
        fields = {**fields, **AS_THEY_ARE}
    preprocessing = choose_preprocessing(request.preprocessing, None, fields)
    if any(side not in (None, cropped) for side, cropped in zip(file.size, preprocessing.crop, strict=True)):
        raise ExportError(
            f"{file.path}: takes {file.size[0]}x{file.size[1]} pixels, and the preprocessing crops "
            f"{preprocessing.crop[0]}x{preprocessing.crop[1]}"
        )
    return Description(file.path.name, {}, request.labels, preprocessing)
