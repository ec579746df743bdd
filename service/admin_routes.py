"""POST /admin/models/{name}/…: what is served, changed while it is served. Only with a key for `admin`."""

import logging

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.errors import Conflict, LoadFailed, ProviderMissing
from service.keys import Keys
from service.model_repository import ModelRepository
from service.parameters import parts
from service.schemas import Problem

router = APIRouter(prefix="/admin/models/{name}", responses={code: {"model": Problem} for code in (401, 403, 404, 409)})
log = logging.getLogger("aaserve")


@router.post("/load", status_code=204)
async def load(request: Request, name: str) -> Response:
    """Serve what the model's folder says now; if that fails, all stays as it was."""
    try:
        await _repository(request).load(name)
    except (LoadFailed, ProviderMissing) as error:
        log.error("%s", error)
        raise Conflict(f"{name} cannot be loaded; GET /models/{name} says why, and all stays as it was") from error
    return Response(status_code=204)


@router.post("/unload", status_code=204)
async def unload(request: Request, name: str) -> Response:
    """Serve the model no more."""
    await _repository(request).unload(name)
    return Response(status_code=204)


@router.post("/rollback", status_code=204)
async def rollback(request: Request, name: str) -> Response:
    """Serve what was served before the last change."""
    await _repository(request).rollback(name)
    return Response(status_code=204)


def _repository(request: Request) -> ModelRepository:
    keys: Keys = request.app.state.keys
    keys.require(request, "admin")
    lifecycle, settings, _ = parts(request)
    if settings.workers > 1:
        raise Conflict("one worker of several would change alone; send the service SIGHUP instead")
    return lifecycle.repository
