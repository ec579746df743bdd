"""POST /v2/models/{model}/infer: HTTP --> the predictor, and back. Reads from top to bottom as a request goes."""

from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from aaserve.service.engine.queueing.queued_request import Outputs, Sizes
from aaserve.service.http.answers import compressed
from aaserve.service.http.body.body import Parsed, read_body
from aaserve.service.http.body.receiving import Receipt
from aaserve.service.http.direct_route import DirectRoute
from aaserve.service.http.inference import Models, take_in
from aaserve.service.http.oip.descriptions import Json
from aaserve.service.http.oip.infer_request import LENGTH_HEADER, InferRequest, read_infer_request
from aaserve.service.http.oip.infer_response import write_infer_response
from aaserve.service.http.oip.model_routes import find, max_rows
from aaserve.service.http.oip.view import View
from aaserve.service.http.params import TimeoutMs
from aaserve.service.http.schemas import ProtocolError, errors, request_body
from aaserve.service.observability.request_record import Record

router = APIRouter(tags=["Open Inference Protocol v2"], route_class=DirectRoute)

_ERRORS = errors(form=ProtocolError)
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
_BODY = request_body(
    {
        "application/json": {"schema": _TENSORS},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    }
)


@dataclass(slots=True)
class _InferUpload:
    """The body of an infer request for up to `max_rows` rows."""

    request: Request
    view: View
    max_rows: int
    parses_text: bool = True

    async def read(self, receipt: Receipt) -> bytes:
        return await read_body(self.request, receipt)

    def parse(self, upload: bytes) -> Parsed[InferRequest]:
        header = self.request.headers.get(LENGTH_HEADER)
        asked = read_infer_request(upload, header, self.view, max_rows=self.max_rows)
        return Parsed(asked, rows=len(asked.rows), timeout=asked.timeout)


@router.post("/v2/models/{model}/infer", response_model=Json, responses=_ERRORS, openapi_extra=_BODY)
@router.post("/v2/models/{model}/versions/{version}/infer", response_model=Json, responses=_ERRORS, openapi_extra=_BODY)
async def infer(request: Request, model: str, version: str | None = None, timeout_ms: TimeoutMs = None) -> Response:
    """Run a model on tensors, or on pictures (`MODEL:pictures`), with its answer as numbers or as its best classes."""
    predictor, view = find(request, model, version)
    record: Record = request.state.record
    record.asks(view.manifest)
    models = Models([predictor], lambda _: (predictor, None))
    upload = _InferUpload(request, view, max_rows(predictor))
    async with take_in(request, models, upload, timeout_ms) as taken:
        asked, client, deadline = taken.content, taken.client, taken.deadline

        def answer(_: object, outputs: Outputs, sizes: Sizes = ()) -> Response:
            return _answer(request, view, asked, outputs, sizes)

        if asked.attention:
            names = (*view.manifest.output_names, *asked.attention)
            inference, response = await predictor.infer_outputs(
                asked.rows, names, answer, client=client, deadline=deadline
            )
            record.predicted(inference.stages, inference.batch_size)
            return response
        inference = await predictor.infer(asked.rows, client=client, deadline=deadline)
        record.predicted(inference.stages, inference.batch_size)
        return await taken.written(lambda: answer(None, inference.outputs, inference.sizes), values=inference.size)


def _answer(request: Request, view: View, asked: InferRequest, outputs: Outputs, sizes: Sizes) -> Response:
    """The lengths are of what there is before it is compressed, as the clients expect."""
    content, json_length = write_infer_response(view, asked, outputs, sizes)
    headers = {} if json_length is None else {LENGTH_HEADER: str(json_length)}
    media_type = "application/json" if json_length is None else "application/octet-stream"
    content, encoding = compressed(content, request.headers.get("accept-encoding", ""))
    if encoding:
        headers["Content-Encoding"] = encoding
    return Response(content, 200, headers, media_type)
