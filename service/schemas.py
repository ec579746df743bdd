"""The shapes of answers, as OpenAPI shows them."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field
from typing_extensions import TypedDict


class ClassScore(TypedDict):
    """One class and its probability."""

    label: str
    class_index: Annotated[int, Field(ge=0)]
    score: Annotated[float, Field(ge=0, le=1, description="Softmax probability.")]


class Classification(BaseModel):
    """What the picture shows, best first."""

    model: str
    version: str
    predictions: list[ClassScore]


class BatchItem(BaseModel):
    """What one of several pictures shows, or why it was not classified: one of the two."""

    predictions: list[ClassScore] | None = None
    problem: "Problem | None" = None


class BatchClassification(BaseModel):
    """One result for each picture, in the order in which they were sent."""

    model: str
    version: str
    results: list[BatchItem]


class Position(BaseModel):
    """A point in what the model sees, as fractions of its width and height from the top left corner."""

    x: float = Field(ge=0, le=1)
    y: float = Field(ge=0, le=1)


class HeadMap(BaseModel):
    """Where one head looks."""

    head: int | Literal["mean"]
    attention: list[list[float]] = Field(description="Share of each cell, row by row; all of them add up to 1.")


class LayerMaps(BaseModel):
    """Where the heads of one layer look, in cells that cover the picture evenly."""

    layer: str
    grid: tuple[int, int] = Field(description="Rows and columns.")
    query: tuple[int, int] | None = Field(description="Row and column of the cell that looks; null for the average.")
    heads: list[HeadMap]


class Explanation(BaseModel):
    """Where the network looks in a picture, layer by layer in the order in which they run."""

    model: str
    version: str
    position: Position | None = Field(description="The point that was asked about; null for the average over all.")
    layers: list[LayerMaps]


class Problem(BaseModel):
    """An error, as RFC 9457 application/problem+json."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable; docs/operations.md lists them.")
    request_id: str


class ProtocolError(BaseModel):
    """An error, as the Open Inference Protocol has it."""

    error: str


class TorchServeError(BaseModel):
    """An error, as TorchServe has it."""

    code: int
    type: str
    message: str


class Health(BaseModel):
    """Where the process is in its life."""

    state: str = Field(description="starting, ready, recovering, draining or failed.")
