"""TorchServe's addresses, for those whose clients still call them: `curl HOST:8080/predictions/MODEL -T kitten.jpg`."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic_core import to_json
from starlette.responses import JSONResponse, Response

from aaserve.bundle.manifest import Manifest
from aaserve.service.engine.predictor import Predictor
from aaserve.service.engine.queueing.queued_request import Inference
from aaserve.service.errors import InvalidParameter, ServiceError
from aaserve.service.http import schemas
from aaserve.service.http.body.body import Parsed
from aaserve.service.http.body.images import ImageUpload, raw_image
from aaserve.service.http.body.multipart import Form
from aaserve.service.http.direct_route import DirectRoute
from aaserve.service.http.inference import by_parameters
from aaserve.service.http.params import Asked, MaxDetections, ScoreThreshold, TimeoutMs, TopK
from aaserve.service.http.routes.classify import wanted_labels
from aaserve.service.http.routes.detect import found, wanted_detections
from aaserve.service.http.routes.pictures import answer_picture
from aaserve.service.http.state import state_of
from aaserve.service.tasks.classification import rank
from aaserve.service.tasks.detection import DetectionsWanted

router = APIRouter(tags=["TorchServe"], route_class=DirectRoute)
_TAKES = {"top_k": "classification", "score_threshold": "detection", "max_detections": "detection"}  # by task
_ROUTE: dict[str, Any] = {
    "response_model": dict[str, float] | list[dict[str, float | list[float]]],
    "responses": schemas.errors(form=schemas.TorchServeError),
    "openapi_extra": schemas.raw_or_form_body("data", schemas.LABELS | schemas.DETECTIONS),
}


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


@router.post("/predictions/{model}", **_ROUTE)
@router.put("/predictions/{model}", **_ROUTE)
@router.post("/predictions/{model}/{version}", **_ROUTE)
@router.put("/predictions/{model}/{version}", **_ROUTE)
async def predictions(
    request: Request,
    model: str,
    version: str | None = None,
    top_k: TopK = None,
    score_threshold: ScoreThreshold = None,
    max_detections: MaxDetections = None,
    timeout_ms: TimeoutMs = None,
) -> Response:
    """Let a model answer the picture in a raw body (of any Content-Type) or in the multipart field `data`.

    A model of classification answers `{label: score}`, one of detection `[{label: [left, top, right, bottom],
    "score": score}]`.
    """
    asked = {
        "model": model,
        "version": version,
        "top_k": top_k,
        "score_threshold": score_threshold,
        "max_detections": max_detections,
    }
    upload = _PredictionUpload(request, takes=_TAKES)
    return await answer_picture(request, by_parameters(request, asked, _wanted, None), upload, timeout_ms, _answer_body)


def _wanted(predictor: Predictor, asked: Asked) -> int | DetectionsWanted:
    """What a request wants of a model, as the address of its task has it."""
    task = predictor.manifest.task
    for name, of in _TAKES.items():
        if of != task and asked[name] is not None:
            raise InvalidParameter(f"{name} is for models of {of}, and {predictor.manifest.name} is one of {task}")
    return wanted_detections(predictor, asked) if task == "detection" else wanted_labels(predictor, asked)


def _answer_body(manifest: Manifest, inference: Inference, wanted: int | DetectionsWanted) -> bytes:
    if isinstance(wanted, int):
        return to_json({item["label"]: item["score"] for item in rank(inference.row(0), manifest, wanted)})
    return to_json(
        [
            {item["label"]: list(item["box"].values()), "score": item["score"]}
            for item in found(manifest, inference, wanted)
        ]
    )
