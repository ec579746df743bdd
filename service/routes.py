"""POST /classify: HTTP --> the predictor, and back. Reads from top to bottom as a request goes."""

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.disconnect import unless_client_leaves
from service.errors import DeadlineExceeded
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
from service.schemas import Classification
from service.uploads import body_bytes, read_image

router = APIRouter()

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_IMAGE_BODY: dict[str, Any] = {
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


@router.post("/classify", response_model=Classification, responses=PROBLEMS, openapi_extra=_IMAGE_BODY)
async def classify(
    request: Request,
    top_k: TopK = None,
    model: ModelName = None,
    version: ModelVersion = None,
    timeout_ms: TimeoutMs = None,
) -> Response:
    """Classify one image: JPEG, PNG, WebP, GIF (first frame), BMP or TIFF."""
    lifecycle, settings, metrics = parts(request)
    record: Record = request.state.record
    predictor = lifecycle.predictor(model, version)
    manifest = predictor.manifest
    record.model = manifest.name
    top_k = checked_top_k(top_k, predictor)
    timeout, deadline = deadline_of(timeout_ms, settings)
    size = body_bytes(request, max_body_bytes=settings.max_body_bytes)

    with predictor.admission.admit(body_bytes=size, timeout=timeout):
        try:
            async with asyncio.timeout_at(deadline):
                image_bytes = await read_image(request, max_body_bytes=settings.max_body_bytes)
        except TimeoutError:
            raise DeadlineExceeded from None
        metrics.observe_stages(manifest.name, {"receive": time.perf_counter() - record.started})
        prediction = await unless_client_leaves(request, predictor.predict(image_bytes, top_k=top_k, deadline=deadline))
    record.stages = prediction.stages
    answer = Classification(model=manifest.name, version=manifest.version, predictions=prediction.predictions)
    return Response(answer.model_dump_json(), media_type="application/json")
