"""manifest.json: the machine-read facts that travel with a model. Schema version 1."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from aaserve.bundle.preprocessing import Preprocessing

REFERENCE_PICTURE = r"reference-[1-8]\.png"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
Name = Annotated[str, Field(pattern=NAME)]
Version = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$", description="A whole number; the highest is the default.")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["fp32", "fp16", "int8"]
StoredWeights = Literal["float32", "float16", "int8"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Input(_Section):
    """The network's one input, without the batch axis, which comes first and is dynamic unless `max_batch_size` is 1.

    Either float32 (3, H, W), normalised outside, or uint8 (H, W, 3), which the graph normalises itself.
    """

    name: str
    dtype: Literal["float32", "uint8"]
    layout: Literal["NCHW", "NHWC"]
    shape: tuple[Size, Size, Size]


class Output(_Section):
    """One output of the graph, without the batch axis, which comes first and is dynamic."""

    name: str
    dtype: Literal["float32", "float16", "int64"]
    shape: tuple[Size, ...]


class AttentionMap(_Section):
    """A further output: the attention map of one layer, (heads, queries, keys) without the batch axis.

    Queries and keys are the positions of `grid`, which covers the picture evenly, counted row by row. Each query's keys
    sum to 1.
    """

    layer: str = Field(description="Name of the layer in the network.")
    output: str = Field(description="Name of the output in the graph.")
    dtype: Literal["float32", "float16"]
    num_heads: Size
    grid: tuple[Size, Size] = Field(description="(height, width), of the queries and of the keys.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(heads, queries, keys)."""
        positions = self.grid[0] * self.grid[1]
        return self.num_heads, positions, positions

    @property
    def as_output(self) -> Output:
        """The map as any other output of the graph."""
        return Output(name=self.output, dtype=self.dtype, shape=self.shape)


class Provenance(_Section):
    """Where the bundle comes from."""

    checkpoint_sha256: Sha256
    command: str
    versions: dict[str, str] = Field(description="Of the libraries that made and checked the graph.")


class Parity(_Section):
    """How the graph compared with its original, PyTorch or an ONNX file, on real pictures when it was made."""

    images: int = Field(ge=1)
    batch_sizes: tuple[Size, ...]
    max_difference: float = Field(ge=0, description="Of any logit, as a share of the largest logit or of 1.")
    tolerance: float = Field(gt=0, description="Largest max_difference allowed.")
    top_1_agreement: float = Field(ge=0, le=1)
    attention_difference: Share | None = Field(None, description="Largest of any share of the attention maps.")
    attention_tolerance: Share | None = Field(None, description="Largest attention_difference allowed.")


class Accuracy(_Section):
    """Accuracy on labelled pictures, and how it was measured."""

    dataset: str
    images: int = Field(ge=1)
    top_1: float = Field(ge=0, le=1)
    top_5: float = Field(ge=0, le=1)
    measured: str = Field(description="Command and circumstances, in a sentence.")


class Lowered(_Section):
    """What a precision below fp32 costs, against the fp32 graph of the same checkpoint, and what was allowed."""

    judged: int = Field(ge=1, description="Pictures that both graphs answered; none of them served to calibrate.")
    top_1_agreement: Share = Field(description="Share of them with the same best class.")
    top_1_fp32: Share | None = Field(description="Accuracy of the fp32 graph, where the pictures are labelled.")
    top_1: Share | None = Field(description="Accuracy of this graph, where the pictures are labelled.")
    allowed_drop: float = Field(
        ge=0, description="Points of accuracy, or of agreement without labels, to lose at most."
    )
    calibrated: int | None = Field(ge=1, description="Pictures that gave the ranges of activations; int8 only.")
    quantised: dict[str, int] | None = Field(description="Operators that compute in 8 bits, by kind; int8 only.")


def _several(outputs: Any) -> Any:
    """Bundles written before there were tasks have one output, under `output`."""
    return (outputs,) if isinstance(outputs, dict | Output) else outputs


class Manifest(_Section):
    """Everything a server must know about `model.onnx`."""

    schema_version: Literal[1]
    name: Name
    version: Version
    task: str = Field("classification", description="What the outputs mean.")
    architecture: str
    input: Input
    outputs: Annotated[tuple[Output, ...], BeforeValidator(_several)] = Field(
        validation_alias=AliasChoices("outputs", "output"),
        description="What the task needs, in the order of the graph; of classification, logits (number of classes,).",
    )
    attention: tuple[AttentionMap, ...] = Field((), description="Further outputs, in the order in which layers run.")
    preprocessing: Preprocessing
    labels: tuple[str, ...]
    precision: Precision = Field(description="Of the arithmetic.")
    stored_weights: StoredWeights = Field(
        "float32",
        description="Of the large weights in the file of an fp32 bundle, widened at load. int8: those of Linear "
        "layers, while the others are float16.",
    )
    max_batch_size: Size | None = Field(
        None,
        exclude_if=lambda rows: rows is None,  # as in manifests older than this field
        description="Rows that the graph takes at once; absent where the batch is dynamic.",
    )
    opset: int
    files: dict[str, Sha256] = Field(description="sha256 of each file beside the manifest.")
    provenance: Provenance
    parity: Parity
    accuracy: Accuracy | None
    lowered: Lowered | None = Field(None, description="Present in every bundle below fp32, and only there.")

    @property
    def output_names(self) -> tuple[str, ...]:
        """Of the outputs that the task needs."""
        return tuple(output.name for output in self.outputs)

    @property
    def all_outputs(self) -> tuple[Output, ...]:
        """Those that the task needs, and the attention maps: every output of the graph, in its order."""
        return *self.outputs, *(maps.as_output for maps in self.attention)

    @field_validator("task")
    @classmethod
    def _known(cls, task: str) -> str:
        if task != "classification":
            raise ValueError(f"expected the task classification, found {task!r}")
        return task

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        logits = [(output.dtype, *output.shape) for output in self.outputs]
        if len(logits) != 1 or logits[0][0] != "float32" or len(logits[0]) != 2:
            raise ValueError(f"expected one output, float32 (number of classes,), found {logits}")
        if len(self.labels) != logits[0][1]:
            raise ValueError(f"expected {logits[0][1]} labels, one for each class, found {len(self.labels)}")
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
        if bool(self.attention) != (self.parity.attention_tolerance is not None):
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
