"""What every route that classifies takes beside its pictures, and what it says of itself in OpenAPI."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Header, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, TypeAdapter, ValidationError

from aaserve.service.engine.predictor import Predictor
from aaserve.service.errors import InvalidParameter
from aaserve.service.http.parameter_names import TIMEOUT_HEADER as TIMEOUT_HEADER
from aaserve.service.http.schemas import Problem
from aaserve.service.observability.metrics import Metrics
from aaserve.service.repository.lifecycle import Lifecycle
from aaserve.service.settings import Settings

TopK = Annotated[int | None, Query(ge=1, description="Labels wanted (default: 5, or all if fewer).")]
ModelName = Annotated[str | None, Query(description="Name of the model (default: default_model of GET /models).")]
ModelVersion = Annotated[str | None, Query(description="Version of the model (default: the highest).")]
TimeoutMs = Annotated[int | None, Header(alias=TIMEOUT_HEADER, ge=1, description="Milliseconds to answer in.")]

Asked = Mapping[str, Any]  # parameter --> its value, None where it is not given
_CHECKS: dict[str, TypeAdapter[Any]] = {"top_k": TypeAdapter(TopK)}  # the others are any text
_STATUSES = (400, 401, 403, 404, 413, 415, 422, 429, 500, 503, 504)


def failures(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """The errors of a route that classifies, as OpenAPI lists them."""
    return {status: {"model": model} for status in _STATUSES}


PROBLEMS = failures(Problem)


def parts(request: Request) -> tuple[Lifecycle, Settings, Metrics]:
    """What the application owns."""
    state = request.app.state
    return state.lifecycle, state.settings, state.metrics


def with_fields(asked: Asked, fields: Mapping[str, str]) -> Asked:
    """What query and body ask for together: the same checks for both.

    Raises:
        RequestValidationError: a value of the body is off.
        InvalidParameter: the two differ.
    """
    together = dict(asked)
    for name, text in fields.items():
        try:
            value = _CHECKS[name].validate_python(text) if name in _CHECKS else text
        except ValidationError as error:
            raise RequestValidationError([{**each, "loc": ("body", name)} for each in error.errors()]) from error
        if together[name] not in (None, value):
            raise InvalidParameter(f"{name} is given in the query and in the body, with different values")
        together[name] = value
    return together


def deadline_of(timeout_ms: int | None, settings: Settings) -> tuple[float, float]:
    """The request's time, as seconds from now and as an instant of the event loop's clock."""
    timeout = min(timeout_ms or settings.request_timeout_ms, settings.request_timeout_ms) / 1000
    return timeout, asyncio.get_running_loop().time() + timeout


def checked_top_k(top_k: int | None, predictor: Predictor) -> int:
    """The number of labels wanted, or InvalidParameter."""
    num_classes = len(predictor.manifest.labels)
    if top_k is None:
        return min(5, num_classes)
    if top_k > num_classes:
        raise InvalidParameter(f"top_k is too large; {predictor.manifest.name} has {num_classes} classes")
    return top_k
