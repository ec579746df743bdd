"""GET /models: what is served. It answers at any time, also while models are loading or one has failed."""

from typing import Any

from fastapi import APIRouter, Request

from service.errors import ModelNotFound
from service.lifecycle import Lifecycle, Served
from service.model_card import ModelCard, ModelList, ModelSummary, VersionCard, VersionState, version_card
from service.schemas import Problem

router = APIRouter()

_NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}


@router.get("/models")
async def list_models(request: Request) -> ModelList:
    """The models served here, their versions and states."""
    return ModelList(
        models=[
            ModelSummary(
                name=served.manifest.name, versions=[VersionState(version=served.manifest.version, state=served.state)]
            )
            for served in _lifecycle(request).served()
        ]
    )


@router.get("/models/{name}", responses=_NOT_FOUND)
async def describe_model(request: Request, name: str) -> ModelCard:
    """One model: labels, preprocessing, accuracy, parity with PyTorch, provenance, provider."""
    found = [served for served in _lifecycle(request).served() if served.manifest.name == name]
    if not found:
        raise ModelNotFound("no such model; GET /models lists what is served")
    return ModelCard(name=name, versions=[_card(served) for served in found])


def _card(served: Served) -> VersionCard:
    return version_card(served.manifest, state=served.state, provider=served.provider)


def _lifecycle(request: Request) -> Lifecycle:
    lifecycle: Lifecycle = request.app.state.lifecycle
    return lifecycle
