"""GET /models: what is served. It answers at any time, also while models are loading or one has failed."""

from typing import Any

from fastapi import APIRouter, Request

from aaserve.service.errors import ModelNotFound
from aaserve.service.http.params import parts
from aaserve.service.http.routes.model_card import ModelCard, ModelList, model_card, model_summary
from aaserve.service.http.schemas import Problem

router = APIRouter()

_NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}


@router.get("/models")
async def list_models(request: Request) -> ModelList:
    """The models known here, their versions and states, and which of them answers where none is named."""
    lifecycle = parts(request)[0]
    models = [model_summary(model) for model in lifecycle.models]
    return ModelList(default_model=lifecycle.default_model, models=models)


@router.get("/models/{name}", responses=_NOT_FOUND)
async def describe_model(request: Request, name: str) -> ModelCard:
    """One model: labels, preprocessing, accuracy, parity with PyTorch, provenance, provider, and what failed."""
    for model in parts(request)[0].models:
        if model.name == name:
            return model_card(model)
    raise ModelNotFound("no such model; GET /models lists what is served")
