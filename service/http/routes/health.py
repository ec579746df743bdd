"""What those who operate the service ask: is it alive, is it ready, what does it do."""

from fastapi import APIRouter, Request
from prometheus_client.exposition import choose_encoder
from starlette.responses import JSONResponse, Response

from aaserve.service.http.schemas import Health, errors
from aaserve.service.http.state import state_of
from aaserve.service.repository.lifecycle import State

router = APIRouter()


@router.get("/health/live", response_model=Health, responses={503: {"model": Health}})
async def live(request: Request) -> Response:
    """Whether the process does its work; a supervisor should restart it if not."""
    state = state_of(request).lifecycle.state
    return JSONResponse({"state": state}, 503 if state is State.FAILED else 200)


@router.get("/health/ready", response_model=Health, responses=errors(503))
async def ready(request: Request) -> Response:
    """Whether requests are answered now: models loaded, warmed up, and not stopping."""
    lifecycle = state_of(request).lifecycle
    lifecycle.require_ready()
    return JSONResponse({"state": lifecycle.state})


@router.get("/metrics", response_class=Response)
def metrics(request: Request) -> Response:  # not async: rendered in a thread, off the event loop
    """Prometheus metrics, or OpenMetrics if asked for."""
    metrics = state_of(request).metrics
    metrics.refresh()
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(metrics.registry), media_type=content_type)
