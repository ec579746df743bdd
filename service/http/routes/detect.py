"""POST /detect and /detect/batch: images in, labelled boxes in pixels of these images out."""

from functools import partial
from time import perf_counter

from fastapi import APIRouter, Request
from pydantic_core import to_json
from starlette.responses import Response

from aaserve.bundle.manifest import Manifest
from aaserve.service.engine.predictor import Predictor
from aaserve.service.engine.queueing.queued_request import Inference
from aaserve.service.http import schemas
from aaserve.service.http.answers import json_array, json_object, preferred
from aaserve.service.http.body.images import ImagesUpload, ImageUpload
from aaserve.service.http.direct_route import DirectRoute
from aaserve.service.http.inference import ADDRESSES, Models, by_parameters, take_in
from aaserve.service.http.params import Asked, MaxDetections, ModelName, ModelVersion, ScoreThreshold, TimeoutMs
from aaserve.service.http.routes.pictures import answer_picture, answer_pictures, named
from aaserve.service.tasks.detection import Detection, DetectionsWanted, detections, detections_wanted
from aaserve.service.tasks.drawing import draw

router = APIRouter(route_class=DirectRoute)
_TASK = "detection"
DETECT = ADDRESSES[_TASK]
_JSON, _PNG = "application/json", "image/png"
_FIELDS = schemas.MODEL | schemas.DETECTIONS
_RESPONSES: schemas.Responses = {
    **schemas.errors(),
    200: {
        "content": {_PNG: {"schema": {"type": "string", "format": "binary"}}},
        "description": "JSON, or the image with the boxes drawn into it, as Accept says.",
    },
    **schemas.errors(406),
}


@router.post(
    DETECT,
    response_model=schemas.Detections,
    responses=_RESPONSES,
    openapi_extra=schemas.image_body(_FIELDS),
)
async def detect(
    request: Request,
    score_threshold: ScoreThreshold = None,
    max_detections: MaxDetections = None,
    model: ModelName = None,
    version: ModelVersion = None,
    timeout_ms: TimeoutMs = None,
) -> Response:
    """Find the objects in one image: JPEG, PNG, WebP, GIF (first frame), BMP or TIFF.

    JSON with a box for each, in pixels of the image as it is seen (its EXIF orientation applied); with
    `Accept: image/png` the image with the boxes drawn into it.
    """
    drawn = is_drawn(request.headers.get("accept", ""))
    asked = {"model": model, "version": version, "score_threshold": score_threshold, "max_detections": max_detections}
    models = by_parameters(request, asked, wanted_detections, _TASK)
    upload = ImageUpload(request, takes=asked)
    if drawn:
        response = await _drawn(request, models, upload, timeout_ms)
    else:
        response = await answer_picture(request, models, upload, timeout_ms, _answer_body)
    response.headers["Vary"] = "Accept"
    return response


@router.post(
    "/detect/batch",
    response_model=schemas.BatchDetections,
    responses=schemas.errors(),
    openapi_extra=schemas.images_body(_FIELDS),
)
async def detect_batch(
    request: Request,
    score_threshold: ScoreThreshold = None,
    max_detections: MaxDetections = None,
    model: ModelName = None,
    version: ModelVersion = None,
    timeout_ms: TimeoutMs = None,
) -> Response:
    """Find the objects in several images; one result for each, in order: `detections`, or the `problem` of that image.

    `image` says how large the image is.
    """
    asked = {"model": model, "version": version, "score_threshold": score_threshold, "max_detections": max_detections}
    upload = ImagesUpload(request, takes=asked)
    return await answer_pictures(
        request, by_parameters(request, asked, wanted_detections, _TASK), upload, timeout_ms, _result
    )


def wanted_detections(predictor: Predictor, asked: Asked) -> DetectionsWanted:
    """Which detections a request asks for, or InvalidParameter."""
    return detections_wanted(asked["score_threshold"], asked["max_detections"], predictor.manifest)


def is_drawn(accept: str) -> bool:
    """Whether the answer to a request with this Accept is the image with the boxes drawn into it, or NotAcceptable."""
    return preferred(accept, (_JSON, _PNG)) == _PNG


def found(manifest: Manifest, inference: Inference, wanted: DetectionsWanted) -> list[Detection]:
    """The detections in the only picture of a request."""
    return detections(inference.row(0), manifest, inference.sizes[0], wanted)


async def _drawn(
    request: Request, models: Models[DetectionsWanted], upload: ImageUpload, timeout_ms: int | None
) -> Response:
    """The picture with its detections drawn into it; of each model one at a time, as decoded pictures are large."""
    async with take_in(request, models, upload, timeout_ms, slow=True) as taken:
        predictor, client, deadline = taken.predictor, taken.client, taken.deadline
        inference = await predictor.infer_picture(taken.content, client=client, deadline=deadline)
        shown = found(predictor.manifest, inference, taken.checked)
        max_pixels = predictor.settings.max_image_pixels
        work = partial(draw, taken.content, shown, predictor.manifest.preprocessing, max_pixels=max_pixels)
        started = perf_counter()
        png = await predictor.render(work, client=client, deadline=deadline)
        stages = inference.stages | {"render": perf_counter() - started}
    request.state.record.predicted(stages, inference.batch_size)
    return Response(png, media_type=_PNG)


def _answer_body(manifest: Manifest, inference: Inference, wanted: DetectionsWanted) -> bytes:
    """`Detections`, written without being checked first: they are ours."""
    return json_object(named(manifest) | _result(manifest, inference, wanted))


def _result(manifest: Manifest, inference: Inference, wanted: DetectionsWanted) -> dict[str, bytes]:
    width, height = inference.sizes[0]
    return {
        "image": to_json({"width": width, "height": height}),
        "detections": json_array(found(manifest, inference, wanted)),
    }
