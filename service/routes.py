"""HTTP --> the predictor, and back. Reads from top to bottom as a request goes."""

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from prometheus_client.exposition import choose_encoder
from starlette.responses import JSONResponse, Response

from service.disconnect import unless_client_leaves
from service.errors import DeadlineExceeded, InvalidParameter
from service.lifecycle import Lifecycle, State
from service.metrics import Metrics
from service.observation import Record
from service.predictor import Predictor
from service.schemas import Classification, Health, Problem
from service.settings import Settings
from service.uploads import read_image

router = APIRouter()

_IMAGE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary"}},
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "description": "Base64 or a data URI."}},
                }
            },
        },
    }
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 404, 413, 415, 422, 429, 500, 503, 504)
}


@router.post("/classify", response_model=Classification, responses=_PROBLEMS, openapi_extra=_IMAGE_BODY)
async def classify(
    request: Request,
    top_k: Annotated[int | None, Query(ge=1, description="Labels wanted (default: 5, or all if fewer).")] = None,
    model: Annotated[str | None, Query(description="Name of the model, where several are served.")] = None,
    version: Annotated[str | None, Query(description="Version of the model (default: the highest).")] = None,
    timeout_ms: Annotated[
        int | None, Header(alias="X-Request-Timeout-Ms", ge=1, description="Milliseconds to answer in.")
    ] = None,
) -> Response:
    """Classify one image: JPEG, PNG, WebP, GIF (first frame), BMP or TIFF."""
    lifecycle, settings, metrics = _parts(request)
    record: Record = request.state.record
    predictor = lifecycle.predictor(model, version)
    manifest = predictor.manifest
    record.model = manifest.name
    top_k = _checked_top_k(top_k, predictor)
    timeout = min(timeout_ms or settings.request_timeout_ms, settings.request_timeout_ms) / 1000
    deadline = asyncio.get_running_loop().time() + timeout

    try:
        async with asyncio.timeout_at(deadline):
            image_bytes = await read_image(request, max_body_bytes=settings.max_body_bytes)
    except TimeoutError:
        raise DeadlineExceeded from None
    metrics.observe_stages(manifest.name, {"receive": time.perf_counter() - record.started})
    prediction = await unless_client_leaves(request, predictor.predict(image_bytes, top_k=top_k, deadline=deadline))
    record.stages = prediction.stages
    answer = Classification(model=manifest.name, version=manifest.version, predictions=prediction.predictions)
    return Response(answer.model_dump_json(), media_type="application/json")


@router.get("/health/live", response_model=Health, responses={503: {"model": Health}})
async def live(request: Request) -> Response:
    """Whether the process does its work; a supervisor should restart it if not."""
    state = _parts(request)[0].state
    return JSONResponse({"state": state}, 503 if state is State.FAILED else 200)


@router.get("/health/ready", response_model=Health, responses={503: {"model": Problem}})
async def ready(request: Request) -> Response:
    """Whether requests are answered now: models loaded, warmed up, and not stopping."""
    lifecycle = _parts(request)[0]
    lifecycle.require_ready()
    return JSONResponse({"state": lifecycle.state})


@router.get("/metrics", response_class=Response)
def metrics(request: Request) -> Response:  # not async: rendered in a thread, off the event loop
    """Prometheus metrics, or OpenMetrics if asked for."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(_parts(request)[2].registry), media_type=content_type)


def _parts(request: Request) -> tuple[Lifecycle, Settings, Metrics]:
    state = request.app.state
    return state.lifecycle, state.settings, state.metrics


def _checked_top_k(top_k: int | None, predictor: Predictor) -> int:
    num_classes = len(predictor.manifest.labels)
    if top_k is None:
        return min(5, num_classes)
    if top_k > num_classes:
        raise InvalidParameter(f"top_k is too large; {predictor.manifest.name} has {num_classes} classes")
    return top_k
