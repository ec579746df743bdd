"""Sections of manifest.json for all tasks."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
# Of a precision below fp32:
Judged = Annotated[int, Field(ge=1, description="Pictures that both graphs answered; none was used for calibration.")]
Calibrated = Annotated[int | None, Field(ge=1, description="Pictures used for the ranges of activations; int8 only.")]
Quantised = Annotated[dict[str, int] | None, Field(description="Operators in 8 bits, by type; int8 only.")]


class Section(BaseModel):
    """A part of the manifest: immutable, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Input(Section):
    """The network's input, without the batch axis, which comes first and is dynamic unless `max_batch_size` is 1.

    Either float32 (3, H, W), normalised before the graph, or uint8 (H, W, 3), normalised in the graph.
    """

    name: str
    dtype: Literal["float32", "uint8"]
    layout: Literal["NCHW", "NHWC"]
    shape: tuple[Size, Size, Size]


class Output(Section):
    """An output of the graph, without the batch axis, which comes first and is dynamic."""

    name: str
    dtype: Literal["float32", "float16", "int64"]
    shape: tuple[Size, ...]


class AttentionMap(Section):
    """The attention map of one layer as a further output, (heads, queries, keys) without the batch axis.

    Queries and keys are the positions of `grid`, which covers the picture evenly, counted row by row. The weights of
    each query sum to 1.
    """

    layer: str = Field(description="Name of the layer in the network.")
    output: str = Field(description="Name of the output in the graph.")
    dtype: Literal["float32", "float16"]
    num_heads: Size
    grid: tuple[Size, Size] = Field(description="(height, width) of the queries and of the keys.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(heads, queries, keys)."""
        positions = self.grid[0] * self.grid[1]
        return self.num_heads, positions, positions

    @property
    def as_output(self) -> Output:
        """The map as an output of the graph."""
        return Output(name=self.output, dtype=self.dtype, shape=self.shape)


class Provenance(Section):
    """The origin of the bundle."""

    checkpoint_sha256: Sha256
    command: str
    versions: dict[str, str] = Field(description="Versions of the libraries that made and checked the graph.")
