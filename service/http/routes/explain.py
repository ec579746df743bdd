"""POST /explain: where the network looks in a picture. The same way as /classify, but alone: never in a batch."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from numpy.typing import NDArray
from starlette.responses import Response

from aaserve.service.attention.render import FORMS, NPY, PNG, Explanation, for_form
from aaserve.service.attention.selection import AttentionSelection, checked_selection
from aaserve.service.engine.predictor import Predictor
from aaserve.service.engine.queueing.queued_request import Outputs
from aaserve.service.http import schemas
from aaserve.service.http.answers import preferred
from aaserve.service.http.body.images import ImageUpload
from aaserve.service.http.direct_route import DirectRoute
from aaserve.service.http.inference import by_parameters, take_in
from aaserve.service.http.params import Asked, ModelName, ModelVersion, TimeoutMs

EXPLAIN = "/explain"
router = APIRouter(route_class=DirectRoute)

Layer = Annotated[
    str | None, Query(description="Name of a layer (default: all; the last in a PNG and an array). GET /models/NAME.")
]
Head = Annotated[str | None, Query(description="Number of a head, or mean (default: each; their mean in a PNG).")]
Position = Annotated[
    str | None,
    Query(
        description="Whose attention: x,y as fractions of what the model sees, from its top left corner, such as "
        "0.5,0.25 (default: the average over all positions)."
    ),
]
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_RESPONSES: schemas.Responses = {
    **schemas.errors(),
    200: {"content": {PNG: _BINARY, NPY: _BINARY}, "description": "JSON, a PNG or an array, as Accept says."},
    **schemas.errors(406),
}
_BODY = schemas.image_body(schemas.MODEL | schemas.LOOK)


@router.post(EXPLAIN, response_model=Explanation, responses=_RESPONSES, openapi_extra=_BODY)
async def explain(
    request: Request,
    layer: Layer = None,
    head: Head = None,
    position: Position = None,
    model: ModelName = None,
    version: ModelVersion = None,
    timeout_ms: TimeoutMs = None,
) -> Response:
    """Where each attention layer and head looks in one image.

    JSON with the shares of each; with `Accept: image/png` one map over the picture as the model sees it; with
    `Accept: application/x-npy` the whole map of a layer, float32 (heads, rows, columns, rows, columns).
    """
    media_type = preferred(request.headers.get("accept", ""), list(FORMS))
    asked = {"model": model, "version": version, "layer": layer, "head": head, "position": position}
    upload = ImageUpload(request, takes=asked)

    def wanted_look(predictor: Predictor, asked: Asked) -> AttentionSelection:
        wanted = {name: asked[name] for name in ("layer", "head", "position")}
        return for_form(checked_selection(predictor.manifest, **wanted), media_type)

    models = by_parameters(request, asked, wanted_look, "classification")
    async with take_in(request, models, upload, timeout_ms, slow=True) as taken:
        predictor, look = taken.predictor, taken.checked

        def show(rows: NDArray[Any], outputs: Outputs) -> bytes:
            maps = {layer.layer: outputs[layer.output][0] for layer in look.layers}
            return FORMS[media_type](predictor.manifest, look, rows[0], maps)

        names = tuple(layer.output for layer in look.layers)
        inference, shown = await predictor.infer_outputs(
            [taken.content], names, show, client=taken.client, deadline=taken.deadline
        )
    request.state.record.predicted(inference.stages, inference.batch_size)
    return Response(shown, media_type=media_type, headers={"Vary": "Accept"})
