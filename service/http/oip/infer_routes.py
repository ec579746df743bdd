"""POST /v2/models/{model}/infer: HTTP --> the predictor, and back. Reads from top to bottom as a request goes."""

from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from aaserve.service.engine.queued_request import Outputs
from aaserve.service.http.body.body import read_body
from aaserve.service.http.body.compression import compressed
from aaserve.service.http.direct_route import DirectRoute
from aaserve.service.http.inference import take_in
from aaserve.service.http.json_answer import written
from aaserve.service.http.oip.descriptions import Json
from aaserve.service.http.oip.infer_request import LENGTH_HEADER, InferRequest, read_infer_request
from aaserve.service.http.oip.infer_response import write_infer_response
from aaserve.service.http.oip.model_routes import find
from aaserve.service.http.oip.view import View
from aaserve.service.http.params import TimeoutMs, failures, parts
from aaserve.service.http.schemas import ProtocolError
from aaserve.service.observability.request_record import Record

router = APIRouter(tags=["Open Inference Protocol v2"], route_class=DirectRoute)

_ERRORS = failures(ProtocolError)
_TENSORS = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "shape", "datatype"],
                "properties": {
                    "name": {"type": "string"},
                    "shape": {"type": "array", "items": {"type": "integer"}},
                    "datatype": {"type": "string"},
                    "parameters": {"type": "object"},
                    "data": {"type": "array", "items": {}},
                },
            },
        },
        "outputs": {"type": "array", "items": {"type": "object"}},
    },
}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _TENSORS},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.post("/v2/models/{model}/infer", response_model=Json, responses=_ERRORS, openapi_extra=_BODY)
@router.post("/v2/models/{model}/versions/{version}/infer", response_model=Json, responses=_ERRORS, openapi_extra=_BODY)
async def infer(request: Request, model: str, version: str | None = None, timeout_ms: TimeoutMs = None) -> Response:
    """Run a model on tensors, or on pictures (`MODEL:pictures`), with its answer as numbers or as its best classes."""
    lifecycle, settings, _ = parts(request)
    record: Record = request.state.record
    predictor, view = find(lifecycle.repository, model, version)
    record.asks(view.manifest)
    parse = partial(
        read_infer_request,
        header_length=request.headers.get(LENGTH_HEADER),
        view=view,
        max_rows=min(settings.max_batch_items, predictor.queue_capacity),
    )

    async with take_in(
        request,
        [predictor],
        timeout_ms,
        read=partial(read_body, max_body_bytes=settings.max_body_bytes),
        parse=lambda body: (parse(body), {}),
        choose=lambda _: (predictor, None),
        parses_text=True,
        rows_of=lambda asked: len(asked.rows),
        timeout_of=lambda asked: asked.timeout,
    ) as taken:
        asked, client, deadline = taken.body, taken.client, taken.deadline

        def answer(_: object, outputs: Outputs) -> Response:
            return _answer(request, view, asked, outputs)

        if asked.attention:
            names = (*view.manifest.output_names, *asked.attention)
            inference, response = await predictor.infer_outputs(
                asked.rows, names, answer, client=client, deadline=deadline
            )
            record.predicted(inference.stages, inference.batch_size)
            return response
        inference = await predictor.infer(asked.rows, client=client, deadline=deadline)
        record.predicted(inference.stages, inference.batch_size)
        write = partial(answer, None, inference.outputs)
        offload = partial(predictor.offload, client=client)
        return await written(write, values=inference.size, offload=offload, deadline=deadline)


def _answer(request: Request, view: View, asked: InferRequest, outputs: Outputs) -> Response:
    """The lengths are of what there is before it is compressed, as the clients expect."""
    content, json_length = write_infer_response(view, asked, outputs)
    headers = {} if json_length is None else {LENGTH_HEADER: str(json_length)}
    media_type = "application/json" if json_length is None else "application/octet-stream"
    content, encoding = compressed(content, request.headers.get("accept-encoding", ""))
    if encoding:
        headers["Content-Encoding"] = encoding
    return Response(content, 200, headers, media_type)
