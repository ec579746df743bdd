"""manifest.json: machine-readable facts about a model. Schema version 1."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AliasChoices, BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from aaserve.bundle.preprocessing import Preprocessing
from aaserve.bundle.sections import AttentionMap, Input, Output, Provenance, Section, Sha256, Size
from aaserve.bundle.tasks import classification, detection
from aaserve.bundle.tasks.classification import Accuracy, Lowered, Parity
from aaserve.bundle.tasks.detection import DetectionAccuracy, DetectionLowered, DetectionParity, Suppression

REFERENCE_PICTURE = r"reference-[1-8]\.png"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
Name = Annotated[str, Field(pattern=NAME)]
Version = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$", description="A whole number; the highest is the default.")]
Precision = Literal["fp32", "fp16", "int8"]
StoredWeights = Literal["float32", "float16", "int8"]


class _Task(NamedTuple):
    """A task's checks of a manifest; `check_outputs` raises ValueError."""

    check_outputs: Callable[[Sequence[Output], int], None]
    parity: type[Section]
    accuracy: type[Section]
    lowered: type[Section]


_TASKS = {
    "classification": _Task(classification.check_outputs, Parity, Accuracy, Lowered),
    "detection": _Task(detection.check_outputs, DetectionParity, DetectionAccuracy, DetectionLowered),
}


def _detection_has(member: str) -> Discriminator:
    """Distinguish the sections of the two tasks by a field that only detection has."""

    def task_of(section: Any) -> str:
        present = member in section if isinstance(section, Mapping) else hasattr(section, member)
        return "detection" if present else "classification"

    return Discriminator(task_of)


AnyParity = Annotated[
    Annotated[Parity, Tag("classification")] | Annotated[DetectionParity, Tag("detection")],
    _detection_has("least_iou"),
]
AnyAccuracy = Annotated[
    Annotated[Accuracy, Tag("classification")] | Annotated[DetectionAccuracy, Tag("detection")],
    _detection_has("ap"),
]
AnyLowered = Annotated[
    Annotated[Lowered, Tag("classification")] | Annotated[DetectionLowered, Tag("detection")],
    _detection_has("agreement"),
]


def _several(outputs: Any) -> Any:
    """Bundles from before tasks existed have one output, under `output`."""
    return (outputs,) if isinstance(outputs, dict | Output) else outputs


class Manifest(Section):
    """Everything a server must know about `model.onnx`."""

    schema_version: Literal[1]
    name: Name
    version: Version
    task: str = Field("classification", description="The meaning of the outputs.")
    architecture: str
    input: Input
    outputs: Annotated[tuple[Output, ...], BeforeValidator(_several)] = Field(
        validation_alias=AliasChoices("outputs", "output"),
        description="The task's outputs, in the order of the graph. Classification: logits (number of classes,). "
        "Detection: boxes (D, 4), scores (D,), classes (D,) and count ().",
    )
    attention: tuple[AttentionMap, ...] = Field((), description="Further outputs, in the order in which layers run.")
    suppression: Suppression | None = Field(
        None, exclude_if=lambda suppression: suppression is None, description="For detection only."
    )
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    precision: Precision = Field(description="Of the arithmetic.")
    stored_weights: StoredWeights = Field(
        "float32",
        description="Type of the large weights in the file of an fp32 bundle, converted at load. int8: for Linear "
        "layers; the others are float16.",
    )
    max_batch_size: Size | None = Field(
        None,
        exclude_if=lambda rows: rows is None,  # as in manifests older than this field
        description="Rows that the graph takes at once; absent if the batch is dynamic.",
    )
    opset: int
    files: dict[str, Sha256] = Field(description="sha256 of each other file in the bundle.")
    provenance: Provenance
    parity: AnyParity
    accuracy: AnyAccuracy | None
    lowered: AnyLowered | None = Field(None, description="In every bundle below fp32, and only there.")

    @property
    def has_boxes(self) -> bool:
        """True if outputs are in pixels of the input, so that they need the picture's size to be converted."""
        return self.task == "detection"

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the task's outputs."""
        return tuple(output.name for output in self.outputs)

    @property
    def all_outputs(self) -> tuple[Output, ...]:
        """Every output of the graph, in its order: the task's outputs, then the attention maps."""
        return *self.outputs, *(maps.as_output for maps in self.attention)

    @field_validator("task")
    @classmethod
    def _known(cls, task: str) -> str:
        if task not in _TASKS:
            raise ValueError(f"expected the task {' or '.join(_TASKS)}, found {task!r}")
        return task

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        task = _TASKS[self.task]
        task.check_outputs(self.outputs, len(self.labels))
        for name, kind in (("parity", task.parity), ("accuracy", task.accuracy), ("lowered", task.lowered)):
            if not isinstance(getattr(self, name), kind | None):
                raise ValueError(f"expected {name} of the task {self.task}, found that of another one")
        if (self.task == "detection") != (self.suppression is not None):
            raise ValueError("expected suppression in a bundle of detection and only there")
        if self.task == "detection" and self.attention:
            raise ValueError("expected no attention maps in a bundle of detection, found some")
        found = (self.input.dtype, self.input.layout, self.input.shape)
        crop = self.preprocessing.crop
        forms = (("float32", "NCHW", (3, *crop)), ("uint8", "NHWC", (*crop, 3)))
        if found not in forms:
            raise ValueError(f"expected an input {forms[0]} or {forms[1]}, found {found}")
        if {name for name in self.files if not re.fullmatch(REFERENCE_PICTURE, name)} != {
            "model.onnx",
            "references.json",
        }:
            raise ValueError(f"expected the files model.onnx and references.json, found {sorted(self.files)}")
        if len({output.name for output in self.all_outputs}) != len(self.all_outputs):
            raise ValueError("expected outputs of different names, found one twice")
        if isinstance(self.parity, Parity) and bool(self.attention) != (self.parity.attention_tolerance is not None):
            raise ValueError("expected parity.attention_tolerance in a bundle with attention maps and only there")
        if (self.precision == "fp32") != (self.lowered is None):
            raise ValueError(
                f"expected lowered in a bundle below fp32 and only there, found it otherwise in {self.precision}"
            )
        if self.stored_weights != "float32" and self.precision != "fp32":
            raise ValueError(
                f"expected stored_weights {self.stored_weights} in an fp32 bundle only, found it in {self.precision}"
            )
        if (self.precision == "int8") != (self.lowered is not None and self.lowered.calibrated is not None):
            raise ValueError(
                f"expected calibrated in an int8 bundle and only there, found it otherwise in {self.precision}"
            )
        return self
