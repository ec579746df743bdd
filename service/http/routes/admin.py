"""POST /admin/models/{name}/…: what is served, changed while it is served. Only with a key for `admin`.

Of several workers, the one that gets the request changes first. Then all of them follow what is on the disk by SIGHUP.
"""

import logging
from collections.abc import Awaitable

from fastapi import APIRouter, Request

from aaserve.service.errors import Conflict, Forbidden, LoadFailed, ProviderMissing
from aaserve.service.http.routes.model_card import ModelSummary, model_summary
from aaserve.service.http.schemas import errors
from aaserve.service.http.state import state_of
from aaserve.service.repository.repository import ModelRepository
from aaserve.service.repository.served_model import ServedModel

router = APIRouter(prefix="/admin/models/{name}", responses=errors(401, 403, 404, 409))
log = logging.getLogger("aaserve")


@router.post("/load")
async def load(request: Request, name: str) -> ModelSummary:
    """Serve what the model's folder says now; if that fails, all stays as it was."""
    return model_summary(await load_model(request, name))


@router.post("/unload")
async def unload(request: Request, name: str) -> ModelSummary:
    """Do not serve the model any more, until it is loaded or the service starts again."""
    return model_summary(await unload_model(request, name))


@router.post("/rollback")
async def rollback(request: Request, name: str) -> ModelSummary:
    """Serve what was served before the last change; where the folder can be written, a restart does not undo it."""
    repository = changeable(request)
    return model_summary(await _changed(request, name, repository.rollback(name)))


def changeable(request: Request) -> ModelRepository:
    """The models, for who may change them; `service/http/auth.py` has seen a key for that, where there are keys.

    Raises:
        Forbidden: no keys are set, so no request may change models.
    """
    state = state_of(request)
    if state.settings.api_keys_file is None:
        raise Forbidden("off: no api_keys_file is set")
    return state.lifecycle.repository


async def load_model(request: Request, name: str) -> ServedModel:
    """As `ModelRepository.load`, in every worker."""
    return await _changed(request, name, changeable(request).load(name))


async def unload_model(request: Request, name: str) -> ServedModel:
    """As `ModelRepository.unload`.

    Raises:
        Conflict: this is one worker of several, and nothing on the disk would tell the others.
    """
    repository = changeable(request)
    if state_of(request).worker:
        raise Conflict(
            f"one worker of several would unload {name} alone; move its folder out of the repository and send SIGHUP"
        )
    return await repository.unload(name)


async def _changed(request: Request, name: str, change: Awaitable[ServedModel]) -> ServedModel:
    """The model after a change; one that cannot be loaded is the caller's conflict, not our failure."""
    try:
        model = await change
        if worker := state_of(request).worker:
            worker.reload_all()
        return model
    except (LoadFailed, ProviderMissing) as error:
        log.error("%s: %s", name, error)
        raise Conflict(f"{name} cannot be loaded; GET /models/{name} says why, and all stays as it was") from error
