"""TorchServe's addresses, for those whose clients still call them: `curl HOST:8080/predictions/MODEL -T kitten.jpg`."""

from fastapi import APIRouter, Request
from pydantic_core import to_json
from starlette.responses import JSONResponse, Response

from aaserve.bundle.manifest import Manifest
from aaserve.service.errors import ServiceError
from aaserve.service.http import schemas
from aaserve.service.http.body.body import Parsed
from aaserve.service.http.body.images import ImageUpload, raw_image
from aaserve.service.http.body.multipart import Form
from aaserve.service.http.direct_route import DirectRoute
from aaserve.service.http.params import TimeoutMs, TopK
from aaserve.service.http.routes.classify import classified
from aaserve.service.http.state import state_of
from aaserve.service.tasks.classification import ClassScore

router = APIRouter(tags=["TorchServe"], route_class=DirectRoute)
_ERRORS = schemas.errors(form=schemas.TorchServeError)
_BODY = schemas.raw_or_form_body("data", schemas.LABELS)


class _PredictionUpload(ImageUpload):
    """A form, or with any other Content-Type the image itself."""

    field = "data"

    def check(self, media_type: str) -> None:
        pass

    def parse(self, upload: bytes | Form) -> Parsed[bytes]:
        if isinstance(upload, Form):
            return self.of_form(upload)
        return Parsed(raw_image(upload, json_goes="POST /classify takes it"))


@router.get("/ping", response_model=dict[str, str])
async def ping(request: Request) -> Response:
    """Whether requests are answered."""
    try:
        state_of(request).lifecycle.require_ready()
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
    return await classified(request, asked, _PredictionUpload(request, takes=("top_k",)), timeout_ms, _answer_body)


def _answer_body(_: Manifest, predictions: list[ClassScore]) -> bytes:
    return to_json({item["label"]: item["score"] for item in predictions})
