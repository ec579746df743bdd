"""POST /classify: an image in, ranked labels out."""

from collections.abc import Awaitable, Callable
from functools import partial

from fastapi import APIRouter, Request
from pydantic_core import to_json
from starlette.responses import Response

from aaserve.bundle.manifest import Manifest
from aaserve.service.engine.predictor import Predictor
from aaserve.service.http.body.body import JSON, Fields, check_image_type, image_of, media_type_of, read_upload
from aaserve.service.http.body.multipart import Form
from aaserve.service.http.body_schemas import LABELS, MODEL, image_body
from aaserve.service.http.direct_route import DirectRoute
from aaserve.service.http.inference import by_parameters, take_in
from aaserve.service.http.json_answer import json_array, json_object, written
from aaserve.service.http.params import (
    PROBLEMS,
    Asked,
    ModelName,
    ModelVersion,
    TimeoutMs,
    TopK,
    checked_top_k,
    parts,
)
from aaserve.service.http.schemas import Classification
from aaserve.service.observability.request_record import Record
from aaserve.service.tasks.classification import ClassScore, rank

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
    media_type = media_type_of(request)
    check_image_type(media_type)
    answer = await classified(
        request,
        asked,
        timeout_ms,
        read=partial(read_upload, takes=asked, max_body_bytes=parts(request)[1].max_body_bytes),
        parse=partial(image_of, media_type=media_type, takes=asked),
        write=answer_body,
        parses_text=media_type == JSON,
    )
    return Response(answer, media_type="application/json")


async def classified(
    request: Request,
    asked: Asked,
    timeout_ms: int | None,
    *,
    read: Callable[[Request], Awaitable[bytes | Form]],
    parse: Callable[[bytes | Form], tuple[bytes, Fields]],
    write: Callable[[Manifest, list[ClassScore]], bytes],
    parses_text: bool = False,
) -> bytes:
    """Take in a request and classify its image; return what `write` makes of the ranked labels."""
    record: Record = request.state.record
    candidates, choose = by_parameters(request, asked, wanted_labels)
    async with take_in(
        request, candidates, timeout_ms, read=read, parse=parse, choose=choose, parses_text=parses_text
    ) as taken:
        predictor, top_k = taken.predictor, taken.checked
        inference = await predictor.infer_picture(taken.body, client=taken.client, deadline=taken.deadline)

        def answer() -> bytes:
            return write(predictor.manifest, rank(inference.row(0), predictor.manifest, top_k))

        offload = partial(predictor.offload, client=taken.client)
        body = await written(answer, values=inference.size, offload=offload, deadline=taken.deadline)
    record.predicted(inference.stages, inference.batch_size)
    return body


def wanted_labels(predictor: Predictor, asked: Asked) -> int:
    """As `checked_top_k`."""
    return checked_top_k(asked["top_k"], predictor)


def answer_body(manifest: Manifest, predictions: list[ClassScore]) -> bytes:
    """A `Classification`, written without being checked first: it is ours."""
    members = {"model": to_json(manifest.name), "version": to_json(manifest.version)}
    return json_object(members | {"predictions": json_array(predictions)})
