"""What the addresses of all tasks have in common: one picture or several, the model's outputs, an answer in JSON.

body --take_in--> pictures --Predictor--> outputs --write, of the task--> JSON
"""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from fastapi import Request
from pydantic_core import to_json
from starlette.responses import Response

from aaserve.bundle.manifest import Manifest
from aaserve.service.engine.queueing.queued_request import Inference
from aaserve.service.errors import ServiceError
from aaserve.service.http.answers import json_object
from aaserve.service.http.body.images import ImagesUpload, ImageUpload
from aaserve.service.http.error_responses import problem
from aaserve.service.http.inference import Models, take_in
from aaserve.service.http.state import state_of
from aaserve.service.observability.request_record import Record

Checked = TypeVar("Checked")
log = logging.getLogger("aaserve")


async def answer_picture(
    request: Request,
    models: Models[Checked],
    upload: ImageUpload,
    timeout_ms: int | None,
    write: Callable[[Manifest, Inference, Checked], bytes],
) -> Response:
    """Take in a request with one image; `write` returns the JSON for what the model answers."""
    async with take_in(request, models, upload, timeout_ms) as taken:
        manifest = taken.predictor.manifest
        inference = await taken.predictor.infer_picture(taken.content, client=taken.client, deadline=taken.deadline)
        body = await taken.written(lambda: write(manifest, inference, taken.checked), values=inference.size)
    request.state.record.predicted(inference.stages, inference.batch_size)
    return Response(body, media_type="application/json")


async def answer_pictures(
    request: Request,
    models: Models[Checked],
    upload: ImagesUpload,
    timeout_ms: int | None,
    write: Callable[[Manifest, Inference, Checked], dict[str, bytes]],
) -> Response:
    """Take in a request with several images, which succeed or fail each by itself.

    Args:
        write: the members of a result, each as JSON.
    """
    record: Record = request.state.record
    async with take_in(request, models, upload, timeout_ms) as taken:
        manifest = taken.predictor.manifest
        outcomes = await taken.predictor.infer_each(taken.content, client=taken.client, deadline=taken.deadline)
        for error in outcomes:
            if isinstance(error, ServiceError):
                state_of(request).metrics.rejected.labels(error.code).inc()
                if error.status == 500:
                    log.error("request %s: %s", record.request_id, error.code, exc_info=error)
        if slowest := _slowest(outcomes):
            record.predicted(slowest.stages, slowest.batch_size)

        def result(outcome: Inference | ServiceError) -> bytes:
            if isinstance(outcome, ServiceError):
                return to_json({"problem": problem(outcome, record.request_id)})
            return json_object(write(manifest, outcome, taken.checked))

        def answer() -> bytes:
            results = b",".join([result(outcome) for outcome in outcomes])
            return json_object(named(manifest) | {"results": b"[" + results + b"]"})

        values = sum([outcome.size for outcome in outcomes if isinstance(outcome, Inference)])
        body = await taken.written(answer, values=values)
    return Response(body, media_type="application/json")


def named(manifest: Manifest) -> dict[str, bytes]:
    """The members that say which model has answered."""
    return {"model": to_json(manifest.name), "version": to_json(manifest.version)}


def _slowest(outcomes: Sequence[Inference | ServiceError]) -> Inference | None:
    """The image that took longest stands for all of them."""
    inferences = [outcome for outcome in outcomes if isinstance(outcome, Inference)]
    return max(inferences, key=lambda inference: sum(inference.stages.values()), default=None)
