"""POST /classify: HTTP --> the predictor, and back. Reads from top to bottom as a request goes.

A picture that comes with no wishes is answered in `short_way.py`, in the same way but without an application.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request
from pydantic_core import to_json
from starlette.responses import Response

from bundle.manifest import Manifest
from service.deadlines import until
from service.direct_route import DirectRoute
from service.disconnect import unless_client_leaves
from service.observation import Record
from service.parameters import (
    PROBLEMS,
    ModelName,
    ModelVersion,
    TimeoutMs,
    TopK,
    checked_top_k,
    deadline_of,
    parts,
)
from service.predictor import Predictor
from service.schemas import Classification, ClassScore
from service.uploads import body_bytes, read_image

router = APIRouter(route_class=DirectRoute)
CLASSIFY = "/classify"

_BINARY = {"schema": {"type": "string", "format": "binary"}}
IMAGE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": _BINARY,
            "application/octet-stream": _BINARY,
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["image"], "properties": {"image": _BINARY["schema"]}}
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "description": "Base64 or a data URI."}},
                }
            },
        },
    }
}


@router.post(CLASSIFY, response_model=Classification, responses=PROBLEMS, openapi_extra=IMAGE_BODY)
async def classify(
    request: Request,
    top_k: TopK = None,
    model: ModelName = None,
    version: ModelVersion = None,
    timeout_ms: TimeoutMs = None,
) -> Response:
    """Classify one image: JPEG, PNG, WebP, GIF (first frame), BMP or TIFF."""
    predictor = parts(request)[0].repository.predictor(model, version)
    top_k = checked_top_k(top_k, predictor)
    predictions = await classified(request, predictor, top_k=top_k, timeout_ms=timeout_ms)
    return Response(answer_body(predictor.manifest, predictions), media_type="application/json")


async def classified(
    request: Request,
    predictor: Predictor,
    *,
    top_k: int,
    timeout_ms: int | None,
    read: Callable[..., Awaitable[bytes]] = read_image,
) -> list[ClassScore]:
    """Let a request in, `read` its picture and classify it."""
    settings = parts(request)[1]
    record: Record = request.state.record
    record.asks(predictor.manifest)
    timeout, deadline = deadline_of(timeout_ms, settings)
    size = body_bytes(request, max_body_bytes=settings.max_body_bytes)

    with predictor.admission.admit(body_bytes=size, timeout=timeout):
        async with until(deadline):
            image_bytes = await read(request, max_body_bytes=settings.max_body_bytes)
        record.received()
        with unless_client_leaves(request):
            prediction = await predictor.predict(image_bytes, top_k=top_k, deadline=deadline)
    record.predicted(prediction.stages, prediction.batch_size)
    return prediction.predictions


def answer_body(manifest: Manifest, predictions: list[ClassScore]) -> bytes:
    """A `Classification`, written without being checked first: it is ours."""
    return to_json({"model": manifest.name, "version": manifest.version, "predictions": predictions})
