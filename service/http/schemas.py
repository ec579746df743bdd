"""What requests, answers and errors look like in the OpenAPI document."""

from typing import Any

from pydantic import BaseModel, Field

from aaserve.service.tasks.classification import ClassScore
from aaserve.service.tasks.detection import Detection, Size

PROBLEM_TYPE = "application/problem+json"
_STATUSES = (400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504)  # of errors where a model runs
Schema = dict[str, Any]
Responses = dict[int | str, dict[str, Any]]


class Problem(BaseModel):
    """An error, as RFC 9457 application/problem+json."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable; docs/reference.md lists them.")
    request_id: str


class ProtocolError(BaseModel):
    """An error, as the Open Inference Protocol has it."""

    error: str


class TorchServeError(BaseModel):
    """An error, as TorchServe has it."""

    code: int
    type: str
    message: str


class Classification(BaseModel):
    """What the picture shows, best first."""

    model: str
    version: str
    predictions: list[ClassScore]


class BatchItem(BaseModel):
    """What one of several pictures shows, or why it was not classified: one of the two."""

    predictions: list[ClassScore] | None = None
    problem: Problem | None = None


class BatchClassification(BaseModel):
    """One result for each picture, in the order in which they were sent."""

    model: str
    version: str
    results: list[BatchItem]


class Detections(BaseModel):
    """The objects in the picture, the best score first."""

    model: str
    version: str
    image: Size
    detections: list[Detection]


class DetectionsItem(BaseModel):
    """The objects in one of several pictures, or why there is no answer: one of the two."""

    image: Size | None = None
    detections: list[Detection] | None = None
    problem: Problem | None = None


class BatchDetections(BaseModel):
    """One result for each picture, in the order in which they were sent."""

    model: str
    version: str
    results: list[DetectionsItem]


class Health(BaseModel):
    """Where the process is in its life."""

    state: str = Field(description="starting, ready, recovering, draining or failed.")


def errors(*statuses: int, form: type[BaseModel] = Problem) -> Responses:
    """The errors of an address in OpenAPI; without statuses, all that an address has where a model runs."""
    if form is Problem:  # FastAPI would give it the media type of the route's other answers
        problem = {"content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
        return dict.fromkeys(statuses or _STATUSES, problem)
    return {status: {"model": form} for status in statuses or _STATUSES}


# The bodies of requests that bring images. What the query may say, they may say instead.

_BINARY: Schema = {"type": "string", "format": "binary", "minLength": 1}
_BASE64: Schema = {"type": "string", "description": "Base64, in either alphabet, or a data URI."}
_TEXT: Schema = {"type": "string"}
MODEL: Schema = {"model": _TEXT, "version": _TEXT}
LABELS: Schema = {"top_k": {"type": "integer", "minimum": 1}}
DETECTIONS: Schema = {
    "score_threshold": {"type": "number", "minimum": 0, "maximum": 1},
    "max_detections": {"type": "integer", "minimum": 1},
}
LOOK: Schema = {"layer": _TEXT, "head": _TEXT, "position": _TEXT}


def image_body(fields: Schema) -> Schema:
    """One image: as the body, as a form, or in JSON."""
    return request_body(
        {
            "image/*": {"schema": _BINARY},
            "application/octet-stream": {"schema": _BINARY},
            "multipart/form-data": _object("image", _BINARY, fields),
            "application/json": _object("image", _BASE64, fields),
        }
    )


def images_body(fields: Schema) -> Schema:
    """Several images: as a form or in JSON."""
    return request_body(
        {
            "multipart/form-data": _object("image", _several(_BINARY), fields),
            "application/json": _object("images", _several(_BASE64), fields),
        }
    )


def raw_or_form_body(field: str, fields: Schema) -> Schema:
    """One image: as the body, or as a form."""
    return request_body(
        {
            "application/octet-stream": {"schema": _BINARY},
            "multipart/form-data": _object(field, _BINARY, fields),
        }
    )


def request_body(content: Schema) -> Schema:
    return {"requestBody": {"required": True, "content": content}}


def _object(name: str, image: Schema, fields: Schema) -> Schema:
    properties = {name: image, **fields}
    return {"schema": {"type": "object", "required": [name], "properties": properties, "additionalProperties": False}}


def _several(image: Schema) -> Schema:
    return {"type": "array", "minItems": 1, "items": image}
