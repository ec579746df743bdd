"""What every route that classifies takes beside its pictures, and what it says of itself in OpenAPI."""

import asyncio
from typing import Annotated, Any

from fastapi import Header, Query, Request
from pydantic import BaseModel

from service.errors import InvalidParameter
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.predictor import Predictor
from service.schemas import Problem
from service.settings import Settings

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
TopK = Annotated[int | None, Query(ge=1, description="Labels wanted (default: 5, or all if fewer).")]
ModelName = Annotated[str | None, Query(description="Name of the model, where several are served.")]
ModelVersion = Annotated[str | None, Query(description="Version of the model (default: the highest).")]
TimeoutMs = Annotated[int | None, Header(alias=TIMEOUT_HEADER, ge=1, description="Milliseconds to answer in.")]

_STATUSES = (400, 401, 403, 404, 413, 415, 422, 429, 500, 503, 504)


def failures(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """The errors of a route that classifies, as OpenAPI lists them."""
    return {status: {"model": model} for status in _STATUSES}


PROBLEMS = failures(Problem)


def parts(request: Request) -> tuple[Lifecycle, Settings, Metrics]:
    """What the application owns."""
    state = request.app.state
    return state.lifecycle, state.settings, state.metrics


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
