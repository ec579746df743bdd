"""POST /classify: HTTP --> the predictor, and back. Reads from top to bottom as a request goes.

A picture that comes with no wishes is answered in `short_way.py`, in the same way but without an application.
"""

from collections.abc import Awaitable, Callable
from functools import partial

from fastapi import APIRouter, Request
from pydantic_core import to_json
from starlette.responses import Response

from bundle.manifest import Manifest
from service.body_schemas import LABELS, MODEL, image_body
from service.direct_route import DirectRoute
from service.disconnect import unless_client_leaves
from service.intake import take_in
from service.observation import Record
from service.parameters import (
    PROBLEMS,
    Asked,
    ModelName,
    ModelVersion,
    TimeoutMs,
    TopK,
    checked_top_k,
    parts,
)
from service.predictor import Predictor
from service.schemas import Classification, ClassScore
from service.uploads import Fields, read_image

router = APIRouter(route_class=DirectRoute)
CLASSIFY = "/classify"


@router.post(CLASSIFY, response_model=Classification, responses=PROBLEMS, openapi_extra=image_body(MODEL | LABELS))
async def classify(
    request: Request,
    top_k: TopK = None,
    model: ModelName = None,
    version: ModelVersion = None,
    timeout_ms: TimeoutMs = None,
) -> Response:
    """Classify one image: JPEG, PNG, WebP, GIF (first frame), BMP or TIFF."""
    asked = {"model": model, "version": version, "top_k": top_k}
    read = partial(read_image, takes=asked, max_body_bytes=parts(request)[1].max_body_bytes)
    manifest, predictions = await classified(request, asked, timeout_ms, read)
    return Response(answer_body(manifest, predictions), media_type="application/json")


async def classified(
    request: Request,
    asked: Asked,
    timeout_ms: int | None,
    read: Callable[[Request], Awaitable[tuple[bytes, Fields]]],
) -> tuple[Manifest, list[ClassScore]]:
    """Let a request in, `read` its picture and classify it."""
    record: Record = request.state.record
    async with take_in(request, asked, timeout_ms, read=read, check=wanted_labels) as taken:
        with unless_client_leaves(request):
            prediction = await taken.predictor.predict(taken.body, top_k=taken.checked, deadline=taken.deadline)
    record.predicted(prediction.stages, prediction.batch_size)
    return taken.predictor.manifest, prediction.predictions


def wanted_labels(predictor: Predictor, asked: Asked) -> int:
    """As `checked_top_k`."""
    return checked_top_k(asked["top_k"], predictor)


def answer_body(manifest: Manifest, predictions: list[ClassScore]) -> bytes:
    """A `Classification`, written without being checked first: it is ours."""
    return to_json({"model": manifest.name, "version": manifest.version, "predictions": predictions})
