"""POST /admin/models/{name}/…: what is served, changed while it is served. Only with a key for `admin`."""

import logging
from collections.abc import Awaitable

from fastapi import APIRouter, Request

from service.errors import Conflict, Forbidden, LoadFailed, ProviderMissing
from service.model_card import ModelSummary, model_summary
from service.model_repository import ModelRepository
from service.parameters import parts
from service.schemas import Problem
from service.served_model import ServedModel

router = APIRouter(prefix="/admin/models/{name}", responses={code: {"model": Problem} for code in (401, 403, 404, 409)})
log = logging.getLogger("aaserve")


@router.post("/load")
async def load(request: Request, name: str) -> ModelSummary:
    """Serve what the model's folder says now; if that fails, all stays as it was."""
    return model_summary(await load_model(changeable(request), name))


@router.post("/unload")
async def unload(request: Request, name: str) -> ModelSummary:
    """Do not serve the model any more, until it is loaded or the service starts again."""
    return model_summary(await changeable(request).unload(name))


@router.post("/rollback")
async def rollback(request: Request, name: str) -> ModelSummary:
    """Serve what was served before the last change; where the folder can be written, a restart does not undo it."""
    repository = changeable(request)
    return model_summary(await _changed(name, repository.rollback(name)))


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


async def load_model(repository: ModelRepository, name: str) -> ServedModel:
    """As `ModelRepository.load`; a model that cannot be loaded is the caller's conflict, not our failure."""
    return await _changed(name, repository.load(name))


async def _changed(name: str, change: Awaitable[ServedModel]) -> ServedModel:
    try:
        return await change
    except (LoadFailed, ProviderMissing) as error:
        log.error("%s", error)
        raise Conflict(f"{name} cannot be loaded; GET /models/{name} says why, and all stays as it was") from error
