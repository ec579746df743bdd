"""POST /classify and /classify/batch: images in, ranked labels out."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from aaserve.bundle.manifest import Manifest
from aaserve.service.engine.predictor import Predictor
from aaserve.service.engine.queueing.queued_request import Inference
from aaserve.service.http import schemas
from aaserve.service.http.answers import json_array, json_object
from aaserve.service.http.body.images import ImagesUpload, ImageUpload
from aaserve.service.http.direct_route import DirectRoute
from aaserve.service.http.inference import by_parameters
from aaserve.service.http.params import Asked, ModelName, ModelVersion, TimeoutMs, TopK
from aaserve.service.http.routes.pictures import answer_picture, answer_pictures, named
from aaserve.service.tasks.classification import labels_wanted, rank

router = APIRouter(route_class=DirectRoute)
_TASK = "classification"
_FIELDS = schemas.MODEL | schemas.LABELS


@router.post(
    "/classify",
    response_model=schemas.Classification,
    responses=schemas.errors(),
    openapi_extra=schemas.image_body(_FIELDS),
)
async def classify(
    request: Request,
    top_k: TopK = None,
    model: ModelName = None,
    version: ModelVersion = None,
    timeout_ms: TimeoutMs = None,
) -> Response:
    """Classify one image: JPEG, PNG, WebP, GIF (first frame), BMP or TIFF."""
    asked = {"model": model, "version": version, "top_k": top_k}
    upload = ImageUpload(request, takes=asked)
    return await answer_picture(
        request, by_parameters(request, asked, wanted_labels, _TASK), upload, timeout_ms, _answer_body
    )


@router.post(
    "/classify/batch",
    response_model=schemas.BatchClassification,
    responses=schemas.errors(),
    openapi_extra=schemas.images_body(_FIELDS),
)
async def classify_batch(
    request: Request,
    top_k: TopK = None,
    model: ModelName = None,
    version: ModelVersion = None,
    timeout_ms: TimeoutMs = None,
) -> Response:
    """Classify several images; one result for each, in order: `predictions`, or the `problem` of that image alone."""
    asked = {"model": model, "version": version, "top_k": top_k}
    upload = ImagesUpload(request, takes=asked)
    return await answer_pictures(
        request, by_parameters(request, asked, wanted_labels, _TASK), upload, timeout_ms, _predictions
    )


def wanted_labels(predictor: Predictor, asked: Asked) -> int:
    """The number of labels that a request asks for, or InvalidParameter."""
    return labels_wanted(asked["top_k"], predictor.manifest)


def _answer_body(manifest: Manifest, inference: Inference, top_k: int) -> bytes:
    """A `Classification`, written without being checked first: it is ours."""
    return json_object(named(manifest) | _predictions(manifest, inference, top_k))


def _predictions(manifest: Manifest, inference: Inference, top_k: int) -> dict[str, bytes]:
    return {"predictions": json_array(rank(inference.row(0), manifest, top_k))}
