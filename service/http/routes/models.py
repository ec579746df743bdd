"""GET /models: what is served. It answers at any time, also while models are loading or one has failed."""

from fastapi import APIRouter, Request

from aaserve.service.errors import ModelNotFound
from aaserve.service.http.routes.model_card import ModelCard, ModelList, model_card, model_summary
from aaserve.service.http.schemas import errors
from aaserve.service.http.state import state_of

router = APIRouter()


@router.get("/models")
async def list_models(request: Request) -> ModelList:
    """The models known here, their versions and states, and which of them answers where none is named."""
    lifecycle = state_of(request).lifecycle
    models = [model_summary(model) for model in lifecycle.models.values()]
    return ModelList(default_model=lifecycle.default_model, models=models)


@router.get("/models/{name}", responses=errors(404))
async def describe_model(request: Request, name: str) -> ModelCard:
    """One model: labels, preprocessing, accuracy, parity with PyTorch, provenance, provider, and what failed."""
    if model := state_of(request).lifecycle.models.get(name):
        return model_card(model)
    raise ModelNotFound("no such model; GET /models lists what is served")
