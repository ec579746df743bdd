"""GET /v2…: what is here, is it ready, what has it done. The questions of the Open Inference Protocol and of Triton."""

import asyncio
from collections.abc import Iterator
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from aaserve.service.engine.predictor import Predictor
from aaserve.service.errors import InvalidRequest
from aaserve.service.http.body.body import read_body
from aaserve.service.http.body.json_body import kind_of, parse_json
from aaserve.service.http.oip.descriptions import (
    Json,
    model_config,
    model_metadata,
    model_statistics,
    server_metadata,
)
from aaserve.service.http.oip.infer_request import refuse_misspelt
from aaserve.service.http.oip.view import View, names, split_name
from aaserve.service.http.routes.admin import load_model, unload_model
from aaserve.service.http.schemas import ProtocolError, errors
from aaserve.service.http.state import state_of
from aaserve.service.repository.lifecycle import State
from aaserve.service.repository.served_model import ServedModel

router = APIRouter(tags=["Open Inference Protocol v2"], responses=errors(404, 503, form=ProtocolError))
_CHANGES = errors(401, 403, 409, form=ProtocolError)
_ASKED = errors(400, 413, 504, form=ProtocolError)
_MAX_INDEX_BYTES = 65_536  # of what asks for the index; it is parsed on the event loop
_MODEL = "/v2/models/{model}"
_VERSION = _MODEL + "/versions/{version}"


def find(request: Request, model: str, version: str | None) -> tuple[Predictor, View]:
    """The predictor for a name of the protocol, and which of its faces the name means.

    Raises:
        ModelNotFound: as `ModelRepository.predictor`.
    """
    name, pictures = split_name(model)
    predictor = state_of(request).lifecycle.repository.predictor(name, version)
    return predictor, View(predictor.manifest, pictures)


def max_rows(predictor: Predictor) -> int:
    """The rows that one request may have."""
    return min(predictor.settings.max_batch_items, predictor.queue_capacity)


@router.get("/v2", response_model=Json)
async def server() -> Response:
    """Name, version and extensions."""
    return JSONResponse(server_metadata())


@router.get("/v2/health/live", response_model=Json)
async def live(request: Request) -> Response:
    """Whether the process does its work."""
    lifecycle = state_of(request).lifecycle
    if lifecycle.state is State.FAILED:
        lifecycle.require_ready()
    return JSONResponse({"live": True})


@router.get("/v2/health/ready", response_model=Json)
async def ready(request: Request) -> Response:
    """Whether all models answer."""
    state_of(request).lifecycle.require_ready()
    return JSONResponse({"live": True, "ready": True})


@router.get("/v2/models", response_model=Json)
async def models(request: Request) -> Response:
    """The names of all models."""
    served = state_of(request).lifecycle.repository.served()
    return JSONResponse({"models": [name for model in served for name in names(model)]})


@router.get("/v2/models/stats", response_model=Json)
async def all_statistics(request: Request) -> Response:
    """What each model has done; their second names are left out, so that sums are right."""
    predictors = state_of(request).lifecycle.repository.predictors
    stats = [model_statistics(View(predictor.manifest, False), predictor.statistics) for predictor in predictors]
    return JSONResponse({"model_stats": stats})


@router.get(_MODEL, response_model=Json)
@router.get(_VERSION, response_model=Json)
async def metadata(request: Request, model: str, version: str | None = None) -> Response:
    """Inputs and outputs of a model."""
    predictor, view = find(request, model, version)
    return JSONResponse(model_metadata(view, predictor, _versions(request, view)))


@router.get(_MODEL + "/versions", response_model=Json)
async def versions(request: Request, model: str) -> Response:
    """The versions of a model that are served."""
    _, view = find(request, model, None)
    return JSONResponse({"versions": _versions(request, view)})


@router.get(_MODEL + "/ready", response_model=Json)
@router.get(_VERSION + "/ready", response_model=Json)
async def model_ready(request: Request, model: str, version: str | None = None) -> Response:
    """Whether a model answers."""
    _, view = find(request, model, version)
    return JSONResponse({"name": view.name, "ready": True})


@router.get(_MODEL + "/config", response_model=Json)
@router.get(_VERSION + "/config", response_model=Json)
async def config(request: Request, model: str, version: str | None = None) -> Response:
    """A model as Triton's model configuration."""
    predictor, view = find(request, model, version)
    return JSONResponse(model_config(view, predictor, max_rows=max_rows(predictor)))


@router.get(_MODEL + "/stats", response_model=Json)
@router.get(_VERSION + "/stats", response_model=Json)
async def statistics(request: Request, model: str, version: str | None = None) -> Response:
    """What a model has done since it was loaded."""
    predictor, view = find(request, model, version)
    return JSONResponse({"model_stats": [model_statistics(view, predictor.statistics)]})


@router.post("/v2/repository/index", response_model=list[Json], responses=_ASKED)
async def index(request: Request) -> Response:
    """Every model and its state; with `{"ready": true}` only those that answer."""
    state = state_of(request)
    deadline = asyncio.get_running_loop().time() + state.settings.request_timeout_ms / 1000
    with state.receive_stage.receipt(_MAX_INDEX_BYTES) as receipt:
        body = await receipt.received(partial(read_body, request, max_bytes=_MAX_INDEX_BYTES), deadline)
    expected = "no body or a JSON object"
    wanted = parse_json(body, expected=expected, image_hint=f"expected {expected}") if body else {}
    if not isinstance(wanted, dict):
        raise InvalidRequest(f"expected {expected}, found {kind_of(wanted)}")
    refuse_misspelt(wanted, ("ready",))
    only_ready = wanted.get("ready", False) is True
    entries = [entry for model in state.lifecycle.repository for entry in _entries(model)]
    return JSONResponse([entry for entry in entries if not only_ready or entry["state"] == "READY"])


@router.post("/v2/repository/models/{model}/load", response_model=Json, responses=_CHANGES)
async def load(request: Request, model: str) -> Response:
    """Serve what the model's folder says now; only with a key for `admin`."""
    await load_model(request, split_name(model)[0])
    return JSONResponse({})


@router.post("/v2/repository/models/{model}/unload", response_model=Json, responses=_CHANGES)
async def unload(request: Request, model: str) -> Response:
    """Serve the model no more; only with a key for `admin`."""
    await unload_model(request, split_name(model)[0])
    return JSONResponse({})


def _versions(request: Request, view: View) -> list[str]:
    return state_of(request).lifecycle.repository.versions(view.manifest.name)


def _entries(model: ServedModel) -> Iterator[Json]:
    states: list[tuple[str, str | None]] = [*((version, None) for version in model.serving), *model.failures.items()]
    for version, unready in states:
        for name in names(model.name):
            state = "UNAVAILABLE" if unready else "READY"
            yield {"name": name, "version": version, "state": state, "reason": unready or ""}
