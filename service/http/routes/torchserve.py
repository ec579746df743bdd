"""TorchServe's addresses, for those whose clients still call them: `curl HOST:8080/predictions/MODEL -T kitten.jpg`."""

from functools import partial

from fastapi import APIRouter, Request
from pydantic_core import to_json
from starlette.responses import JSONResponse, Response

from aaserve.bundle.manifest import Manifest
from aaserve.service.errors import ServiceError
from aaserve.service.http.body.body import FORM, Fields, image_of, raw_image, read_upload
from aaserve.service.http.body.multipart import Form
from aaserve.service.http.body_schemas import LABELS, raw_or_form_body
from aaserve.service.http.direct_route import DirectRoute
from aaserve.service.http.params import TimeoutMs, TopK, failures, parts
from aaserve.service.http.routes.classify import classified
from aaserve.service.http.schemas import TorchServeError
from aaserve.service.tasks.classification import ClassScore

router = APIRouter(tags=["TorchServe"], route_class=DirectRoute)
_FIELD = "data"
_TAKES = ("top_k",)
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
    max_body_bytes = parts(request)[1].max_body_bytes
    read = partial(read_upload, takes=_TAKES, max_body_bytes=max_body_bytes, field=_FIELD)
    answer = await classified(request, asked, timeout_ms, read=read, parse=_image_of, write=_answer_body)
    return Response(answer, media_type="application/json")


def _answer_body(_: Manifest, predictions: list[ClassScore]) -> bytes:
    return to_json({item["label"]: item["score"] for item in predictions})


def _image_of(upload: bytes | Form) -> tuple[bytes, Fields]:
    if isinstance(upload, Form):
        return image_of(upload, FORM, _TAKES, field=_FIELD)
    return raw_image(upload, json_goes="POST /classify takes it"), {}
