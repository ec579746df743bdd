"""TorchServe's addresses, for those whose clients still call them: `curl HOST:8080/predictions/MODEL -T kitten.jpg`."""

from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from service.body_schemas import LABELS, raw_or_form_body
from service.direct_route import DirectRoute
from service.errors import ServiceError
from service.parameters import TimeoutMs, TopK, failures, parts
from service.routes import classified
from service.schemas import TorchServeError
from service.uploads import Fields, media_type_of, raw_image, read_body, read_form_image

router = APIRouter(tags=["TorchServe"], route_class=DirectRoute)
_FIELD = "data"
_ERRORS = failures(TorchServeError)
_BODY = raw_or_form_body(_FIELD, LABELS)


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
    request: Request, model: str, version: str | None = None, top_k: TopK = None, timeout_ms: TimeoutMs = None
) -> Response:
    """Classify the picture in a raw body (of any Content-Type) or in the multipart field `data`: `{label: score}`."""
    asked = {"model": model, "version": version, "top_k": top_k}
    read = partial(_read_picture, max_body_bytes=parts(request)[1].max_body_bytes)
    _, ranked = await classified(request, asked, timeout_ms, read)
    return JSONResponse({item["label"]: item["score"] for item in ranked})


async def _read_picture(request: Request, *, max_body_bytes: int) -> tuple[bytes, Fields]:
    if media_type_of(request) == "multipart/form-data":
        return await read_form_image(request, ("top_k",), max_body_bytes=max_body_bytes, field=_FIELD)
    body = await read_body(request, max_body_bytes=max_body_bytes)
    return raw_image(body, json_goes="POST /classify takes it"), {}
