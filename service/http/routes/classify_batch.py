"""POST /classify/batch: as /classify, for several pictures that succeed or fail each by itself."""

import logging
from collections.abc import Sequence
from functools import partial

from fastapi import APIRouter, Request
from pydantic_core import to_json
from starlette.responses import Response

from aaserve.bundle.manifest import Manifest
from aaserve.service.engine.queued_request import Inference
from aaserve.service.errors import ServiceError
from aaserve.service.http.body.body import JSON, check_images_type, images_of, media_type_of, read_upload
from aaserve.service.http.body_schemas import LABELS, MODEL, images_body
from aaserve.service.http.direct_route import DirectRoute
from aaserve.service.http.error_responses import described
from aaserve.service.http.inference import by_parameters, take_in
from aaserve.service.http.json_answer import json_array, json_object, written
from aaserve.service.http.params import (
    PROBLEMS,
    ModelName,
    ModelVersion,
    TimeoutMs,
    TopK,
    parts,
)
from aaserve.service.http.routes.classify import wanted_labels
from aaserve.service.http.schemas import BatchClassification
from aaserve.service.observability.request_record import Record
from aaserve.service.tasks.classification import rank

router = APIRouter(route_class=DirectRoute)
log = logging.getLogger("aaserve")


@router.post(
    "/classify/batch", response_model=BatchClassification, responses=PROBLEMS, openapi_extra=images_body(MODEL | LABELS)
)
async def classify_batch(
    request: Request,
    top_k: TopK = None,
    model: ModelName = None,
    version: ModelVersion = None,
    timeout_ms: TimeoutMs = None,
) -> Response:
    """Classify several images; one result for each, in order: `predictions`, or the `problem` of that image alone."""
    _, settings, metrics = parts(request)
    record: Record = request.state.record
    asked = {"model": model, "version": version, "top_k": top_k}
    check_images_type(media_type_of(request))
    max_items = settings.max_batch_items
    read = partial(read_upload, takes=asked, max_body_bytes=settings.max_body_bytes, max_images=max_items)
    parse = partial(images_of, takes=asked, max_items=max_items)

    candidates, choose = by_parameters(request, asked, wanted_labels)
    async with take_in(
        request,
        candidates,
        timeout_ms,
        read=read,
        parse=parse,
        choose=choose,
        parses_text=media_type_of(request) == JSON,
        rows_of=len,
    ) as taken:
        predictor = taken.predictor
        outcomes = await predictor.infer_each(taken.body, client=taken.client, deadline=taken.deadline)
        for error in outcomes:
            if isinstance(error, ServiceError):
                metrics.rejected.labels(error.without_origin().code).inc()
                if error.status == 500:
                    log.error("request %s: %s", record.request_id, error.code, exc_info=error)
        if slowest := _slowest(outcomes):
            record.predicted(slowest.stages, slowest.batch_size)
        write = partial(_answer_body, predictor.manifest, outcomes, taken.checked, record.request_id)
        values = len(outcomes) * len(predictor.manifest.labels)
        offload = partial(predictor.offload, client=taken.client)
        answer = await written(write, values=values, offload=offload, deadline=taken.deadline)
    return Response(answer, media_type="application/json")


def _answer_body(
    manifest: Manifest, outcomes: Sequence[Inference | ServiceError], top_k: int, request_id: str
) -> bytes:
    """A `BatchClassification`, written without being checked first: it is ours."""
    results = [_item(outcome, manifest, top_k, request_id) for outcome in outcomes]
    members = {"model": to_json(manifest.name), "version": to_json(manifest.version)}
    return json_object(members | {"results": b"[" + b",".join(results) + b"]"})


def _item(outcome: Inference | ServiceError, manifest: Manifest, top_k: int, request_id: str) -> bytes:
    if isinstance(outcome, ServiceError):
        return to_json({"problem": described(outcome, request_id)})
    return json_object({"predictions": json_array(rank(outcome.row(0), manifest, top_k))})


def _slowest(outcomes: Sequence[Inference | ServiceError]) -> Inference | None:
    """The image that took longest stands for all of them."""
    inferences = [outcome for outcome in outcomes if isinstance(outcome, Inference)]
    return max(inferences, key=lambda inference: sum(inference.stages.values()), default=None)
