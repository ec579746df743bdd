"""POST /classify/batch: as /classify, for several pictures that succeed or fail each by itself."""

import logging
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.deadlines import until
from service.direct_route import DirectRoute
from service.disconnect import unless_client_leaves
from service.errors import ServiceError
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
from service.predictor import Prediction
from service.problems import described
from service.schemas import BatchClassification, BatchItem
from service.uploads import body_bytes, read_images

router = APIRouter(route_class=DirectRoute)
log = logging.getLogger("aaserve")

_IMAGES_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
                    },
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["images"],
                    "properties": {
                        "images": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "string", "description": "Base64 or a data URI."},
                        }
                    },
                }
            },
        },
    }
}


@router.post("/classify/batch", response_model=BatchClassification, responses=PROBLEMS, openapi_extra=_IMAGES_BODY)
async def classify_batch(
    request: Request,
    top_k: TopK = None,
    model: ModelName = None,
    version: ModelVersion = None,
    timeout_ms: TimeoutMs = None,
) -> Response:
    """Classify several images; one result for each, in order: `predictions`, or the `problem` of that image alone."""
    lifecycle, settings, metrics = parts(request)
    record: Record = request.state.record
    predictor = lifecycle.repository.predictor(model, version)
    manifest = predictor.manifest
    record.asks(manifest)
    top_k = checked_top_k(top_k, predictor)
    timeout, deadline = deadline_of(timeout_ms, settings)
    size = body_bytes(request, max_body_bytes=settings.max_body_bytes)
    max_items = min(settings.max_batch_items, predictor.settings.max_queue_size)

    with predictor.admission.admit(body_bytes=size, timeout=timeout) as place:
        async with until(deadline):
            images = await read_images(request, max_body_bytes=settings.max_body_bytes, max_items=max_items)
        record.received()
        place.widen(len(images))  # all or none: half an answer would have to be asked for again anyway
        with unless_client_leaves(request):
            outcomes = await predictor.predict_each(images, top_k=top_k, deadline=deadline)
    for error in outcomes:
        if isinstance(error, ServiceError):
            metrics.rejected.labels(error.code).inc()
            if error.status == 500:
                log.error("request %s: %s", record.request_id, error.code, exc_info=error)
    if slowest := _slowest(outcomes):
        record.predicted(slowest.stages, slowest.batch_size)
    results = [_item(outcome, record.request_id) for outcome in outcomes]
    answer = BatchClassification(model=manifest.name, version=manifest.version, results=results)
    return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")


def _item(outcome: Prediction | ServiceError, request_id: str) -> BatchItem:
    if isinstance(outcome, ServiceError):
        return BatchItem(problem=described(outcome, request_id))
    return BatchItem(predictions=outcome.predictions)


def _slowest(outcomes: list[Prediction | ServiceError]) -> Prediction | None:
    """The image that took longest stands for all of them."""
    predictions = [outcome for outcome in outcomes if isinstance(outcome, Prediction)]
    return max(predictions, key=lambda prediction: sum(prediction.stages.values()), default=None)
