"""The shapes of answers, as OpenAPI shows them."""

from pydantic import BaseModel, Field

from aaserve.service.tasks.classification import ClassScore


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
