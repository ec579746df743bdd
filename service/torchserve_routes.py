"""TorchServe's addresses, for those whose clients still call them: `curl HOST:8080/predictions/MODEL -T kitten.jpg`."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from service.direct_route import DirectRoute
from service.errors import ServiceError
from service.parameters import TimeoutMs, checked_top_k, failures, parts
from service.routes import classified
from service.schemas import TorchServeError
from service.uploads import media_type_of, read_body, read_form_image

router = APIRouter(tags=["TorchServe"], route_class=DirectRoute)
_FIELD = "data"
_ERRORS = failures(TorchServeError)
_PICTURE = {"type": "string", "format": "binary", "minLength": 1}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": _PICTURE},
            "multipart/form-data": {
                "schema": {"type": "object", "required": [_FIELD], "properties": {_FIELD: _PICTURE}}
            },
        },
    }
}


@router.get("/ping", response_model=dict[str, str])
async def ping(request: Request) -> Response:
    """Whether requests are answered."""
    try:
        parts(request)[0].require_ready()
    except ServiceError as error:
        return JSONResponse({"status": "Unhealthy"}, error.status)
    return JSONResponse({"status": "Healthy"})


@router.post("/predictions/{model}", response_model=dict[str, float], responses=_ERRORS, openapi_extra=_BODY)
@router.put("/predictions/{model}", response_model=dict[str, float], responses=_ERRORS, openapi_extra=_BODY)
@router.post("/predictions/{model}/{version}", response_model=dict[str, float], responses=_ERRORS, openapi_extra=_BODY)
@router.put("/predictions/{model}/{version}", response_model=dict[str, float], responses=_ERRORS, openapi_extra=_BODY)
async def predictions(
    request: Request, model: str, version: str | None = None, timeout_ms: TimeoutMs = None
) -> Response:
    """Classify the picture in a raw body (of any Content-Type) or in the multipart field `data`: `{label: score}`."""
    predictor = parts(request)[0].repository.predictor(model, version)
    top_k = checked_top_k(None, predictor)
    ranked = await classified(request, predictor, top_k=top_k, timeout_ms=timeout_ms, read=_read_picture)
    return JSONResponse({item["label"]: item["score"] for item in ranked})


async def _read_picture(request: Request, *, max_body_bytes: int) -> bytes:
    if media_type_of(request) == "multipart/form-data":
        return await read_form_image(request, max_body_bytes=max_body_bytes, field=_FIELD)
    return await read_body(request, max_body_bytes=max_body_bytes)
