"""POST /classify/batch: as /classify, for several pictures that succeed or fail each by itself."""

import logging
from collections.abc import Sequence

from fastapi import APIRouter, Request
from pydantic_core import to_json
from starlette.responses import Response

from aaserve.bundle.manifest import Manifest
from aaserve.service.engine.queueing.queued_request import Inference
from aaserve.service.errors import ServiceError
from aaserve.service.http import schemas
from aaserve.service.http.answers import json_array, json_object
from aaserve.service.http.body.images import ImagesUpload
from aaserve.service.http.direct_route import DirectRoute
from aaserve.service.http.error_responses import problem
from aaserve.service.http.inference import by_parameters, take_in
from aaserve.service.http.params import ModelName, ModelVersion, TimeoutMs, TopK
from aaserve.service.http.routes.classify import wanted_labels
from aaserve.service.http.state import state_of
from aaserve.service.observability.request_record import Record
from aaserve.service.tasks.classification import rank

router = APIRouter(route_class=DirectRoute)
log = logging.getLogger("aaserve")
_BODY = schemas.images_body(schemas.MODEL | schemas.LABELS)


@router.post(
    "/classify/batch", response_model=schemas.BatchClassification, responses=schemas.errors(), openapi_extra=_BODY
)
async def classify_batch(
    request: Request,
    top_k: TopK = None,
    model: ModelName = None,
    version: ModelVersion = None,
    timeout_ms: TimeoutMs = None,
) -> Response:
    """Classify several images; one result for each, in order: `predictions`, or the `problem` of that image alone."""
    record: Record = request.state.record
    asked = {"model": model, "version": version, "top_k": top_k}
    upload = ImagesUpload(request, takes=asked)
    async with take_in(request, by_parameters(request, asked, wanted_labels), upload, timeout_ms) as taken:
        manifest = taken.predictor.manifest
        outcomes = await taken.predictor.infer_each(taken.content, client=taken.client, deadline=taken.deadline)
        for error in outcomes:
            if isinstance(error, ServiceError):
                state_of(request).metrics.rejected.labels(error.code).inc()
                if error.status == 500:
                    log.error("request %s: %s", record.request_id, error.code, exc_info=error)
        if slowest := _slowest(outcomes):
            record.predicted(slowest.stages, slowest.batch_size)

        def answer() -> bytes:
            return _answer_body(manifest, outcomes, taken.checked, record.request_id)

        body = await taken.written(answer, values=len(outcomes) * len(manifest.labels))
    return Response(body, media_type="application/json")


def _answer_body(
    manifest: Manifest, outcomes: Sequence[Inference | ServiceError], top_k: int, request_id: str
) -> bytes:
    """A `BatchClassification`, written without being checked first: it is ours."""
    results = [_item(outcome, manifest, top_k, request_id) for outcome in outcomes]
    members = {"model": to_json(manifest.name), "version": to_json(manifest.version)}
    return json_object(members | {"results": b"[" + b",".join(results) + b"]"})


def _item(outcome: Inference | ServiceError, manifest: Manifest, top_k: int, request_id: str) -> bytes:
    if isinstance(outcome, ServiceError):
        return to_json({"problem": problem(outcome, request_id)})
    return json_object({"predictions": json_array(rank(outcome.row(0), manifest, top_k))})


def _slowest(outcomes: Sequence[Inference | ServiceError]) -> Inference | None:
    """The image that took longest stands for all of them."""
    inferences = [outcome for outcome in outcomes if isinstance(outcome, Inference)]
    return max(inferences, key=lambda inference: sum(inference.stages.values()), default=None)
