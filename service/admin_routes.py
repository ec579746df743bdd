"""POST /admin/models/{name}/…: what is served, changed while it is served. Only with a key for `admin`."""

import logging

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.errors import Conflict, Forbidden, LoadFailed, ProviderMissing
from service.model_repository import ModelRepository
from service.parameters import parts
from service.schemas import Problem

router = APIRouter(prefix="/admin/models/{name}", responses={code: {"model": Problem} for code in (401, 403, 404, 409)})
log = logging.getLogger("aaserve")


@router.post("/load", status_code=204)
async def load(request: Request, name: str) -> Response:
    """Serve what the model's folder says now; if that fails, all stays as it was."""
    await load_model(changeable(request), name)
    return Response(status_code=204)


@router.post("/unload", status_code=204)
async def unload(request: Request, name: str) -> Response:
    """Serve the model no more."""
    await changeable(request).unload(name)
    return Response(status_code=204)


@router.post("/rollback", status_code=204)
async def rollback(request: Request, name: str) -> Response:
    """Serve what was served before the last change."""
    await changeable(request).rollback(name)
    return Response(status_code=204)


def changeable(request: Request) -> ModelRepository:
    """The models, for who may change them; `service/access.py` has seen a key for that, where there are keys.

    Raises:
        Forbidden: there are no keys, so that nobody may.
        Conflict: this is one process of several.
    """
    lifecycle, settings, _ = parts(request)
    if settings.api_keys_file is None:
        raise Forbidden("off: no api_keys_file is set")
    if settings.workers > 1:
        raise Conflict("one worker of several would change alone; send the service SIGHUP instead")
    return lifecycle.repository


async def load_model(repository: ModelRepository, name: str) -> None:
    """As `ModelRepository.load`; a model that cannot be loaded is the caller's conflict, not our failure."""
    try:
        await repository.load(name)
    except (LoadFailed, ProviderMissing) as error:
        log.error("%s", error)
        raise Conflict(f"{name} cannot be loaded; GET /models/{name} says why, and all stays as it was") from error
