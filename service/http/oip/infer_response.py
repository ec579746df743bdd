"""The model's outputs --> the body of an infer response: JSON, behind it the tensors that were asked for as bytes."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from aaserve.bundle.manifest import Manifest
from aaserve.service.http.answers import json_array, json_object
from aaserve.service.http.oip.infer_request import InferRequest, RequestedOutput
from aaserve.service.http.oip.tensor_data import DTYPES, to_bytes
from aaserve.service.http.oip.view import BYTES, View
from aaserve.service.tasks.classification import with_scores
from aaserve.service.tasks.detection import in_pictures


def write_infer_response(
    view: View,
    request: InferRequest,
    outputs: Mapping[str, NDArray[Any]],
    sizes: Sequence[tuple[int, int]] = (),
) -> tuple[bytes, int | None]:
    """Return the body and the length of its JSON, None if it is nothing else.

    Args:
        outputs: of the model by name, (N, ...).
        sizes: (width, height) of the upright pictures, if boxes are to be in their pixels.
    """
    named = _of_pictures(outputs, view.manifest, sizes) if view.pictures else outputs
    described: list[bytes] = []
    tail: list[bytes] = []
    for output in request.outputs:
        tensor, content = _tensor(output, named[output.spec.name], view.manifest.labels)
        described.append(tensor)
        if content is not None:
            tail.append(content)
    answer = {"model_name": to_json(view.name), "model_version": to_json(view.manifest.version)}
    if request.id is not None:
        answer["id"] = json.dumps(request.id).encode()  # it may have half a surrogate pair, which UTF-8 has not
    text = json_object(answer | {"outputs": b"".join([b"[", b",".join(described), b"]"])})
    return b"".join([text, *tail]), len(text) if tail else None


def _of_pictures(
    outputs: Mapping[str, NDArray[Any]], manifest: Manifest, sizes: Sequence[tuple[int, int]]
) -> Mapping[str, NDArray[Any]]:
    return in_pictures(outputs, manifest, sizes) if manifest.has_boxes else with_scores(outputs, manifest)


def _tensor(output: RequestedOutput, values: NDArray[Any], labels: Sequence[str]) -> tuple[bytes, bytes | None]:
    """Describe one output; its data are in the description, or returned beside it."""
    if output.classes:
        datatype, shape = BYTES, [len(values), output.classes]
        texts = [text for row in values for text in _best(row, labels, output.classes)]
        content = to_bytes([text.encode() for text in texts]) if output.binary else json_array(texts)
    else:
        datatype, shape = output.spec.datatype, list(values.shape)
        numbers = values.astype(DTYPES[output.spec.datatype])
        content = to_bytes(numbers) if output.binary else json_array(numbers.ravel())
    described = {"name": to_json(output.spec.name), "datatype": to_json(datatype), "shape": to_json(shape)}
    if not output.binary:
        return json_object(described | {"data": content}), None
    return json_object(described | {"parameters": to_json({"binary_data_size": len(content)})}), content


def _best(row: NDArray[Any], labels: Sequence[str], classes: int) -> list[str]:
    """`value:index:label` of the largest values, largest first."""
    best = np.argsort(-row, kind="stable")[:classes]
    ranked = zip(row[best].tolist(), best.tolist(), strict=True)
    return [f"{value:f}:{index}:{labels[index]}" for value, index in ranked]
