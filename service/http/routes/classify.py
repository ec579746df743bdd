"""POST /classify: an image in, ranked labels out."""

from collections.abc import Callable

from fastapi import APIRouter, Request
from pydantic_core import to_json
from starlette.responses import Response

from aaserve.bundle.manifest import Manifest
from aaserve.service.engine.predictor import Predictor
from aaserve.service.http import schemas
from aaserve.service.http.answers import json_array, json_object
from aaserve.service.http.body.images import ImageUpload
from aaserve.service.http.direct_route import DirectRoute
from aaserve.service.http.inference import by_parameters, take_in
from aaserve.service.http.params import Asked, ModelName, ModelVersion, TimeoutMs, TopK
from aaserve.service.tasks.classification import ClassScore, labels_wanted, rank

router = APIRouter(route_class=DirectRoute)
_BODY = schemas.image_body(schemas.MODEL | schemas.LABELS)


@router.post("/classify", response_model=schemas.Classification, responses=schemas.errors(), openapi_extra=_BODY)
async def classify(
    request: Request,
    top_k: TopK = None,
    model: ModelName = None,
    version: ModelVersion = None,
    timeout_ms: TimeoutMs = None,
) -> Response:
    """Classify one image: JPEG, PNG, WebP, GIF (first frame), BMP or TIFF."""
    asked = {"model": model, "version": version, "top_k": top_k}
    return await classified(request, asked, ImageUpload(request, takes=asked), timeout_ms, _answer_body)


async def classified(
    request: Request,
    asked: Asked,
    upload: ImageUpload,
    timeout_ms: int | None,
    write: Callable[[Manifest, list[ClassScore]], bytes],
) -> Response:
    """Take in a request and classify its image; `write` returns the JSON for the ranked labels."""
    async with take_in(request, by_parameters(request, asked, wanted_labels), upload, timeout_ms) as taken:
        manifest = taken.predictor.manifest
        inference = await taken.predictor.infer_picture(taken.content, client=taken.client, deadline=taken.deadline)

        def answer() -> bytes:
            return write(manifest, rank(inference.row(0), manifest, taken.checked))

        body = await taken.written(answer, values=inference.size)
    request.state.record.predicted(inference.stages, inference.batch_size)
    return Response(body, media_type="application/json")


def wanted_labels(predictor: Predictor, asked: Asked) -> int:
    """The number of labels that a request asks for, or InvalidParameter."""
    return labels_wanted(asked["top_k"], predictor.manifest)


def _answer_body(manifest: Manifest, predictions: list[ClassScore]) -> bytes:
    """A `Classification`, written without being checked first: it is ours."""
    members = {"model": to_json(manifest.name), "version": to_json(manifest.version)}
    return json_object(members | {"predictions": json_array(predictions)})
