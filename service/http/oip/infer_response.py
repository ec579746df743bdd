"""The model's logits --> the body of an infer response: JSON, behind it the tensors that were asked for as bytes."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aaserve.service.http.oip.infer_request import InferRequest, RequestedOutput
from aaserve.service.http.oip.tensor_data import to_bytes
from aaserve.service.http.oip.view import BYTES, SCORES, View
from aaserve.service.tasks.classification import softmax


def write_infer_response(view: View, request: InferRequest, logits: NDArray[Any]) -> tuple[bytes, int | None]:
    """Return the body and the length of its JSON, None if it is nothing else.

    Args:
        logits: (N, num_classes)
    """
    described: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for output in request.outputs:
        values = softmax(logits) if view.pictures and output.spec.name == SCORES else logits  # (N, num_classes)
        tensor, content = _tensor(output, values, view.manifest.labels)
        described.append(tensor)
        if content is not None:
            tail.append(content)
    answer: dict[str, Any] = {"model_name": view.name, "model_version": view.manifest.version}
    if request.id is not None:
        answer["id"] = request.id
    answer["outputs"] = described
    text = json.dumps(answer, allow_nan=False, separators=(",", ":")).encode()
    return b"".join([text, *tail]), len(text) if tail else None


def _tensor(
    output: RequestedOutput, values: NDArray[Any], labels: Sequence[str]
) -> tuple[dict[str, Any], bytes | None]:
    """Describe one output; its data are in the description, or returned beside it."""
    elements: NDArray[np.float32] | list[bytes]
    data: list[Any]
    if output.classes:
        datatype, shape = BYTES, [len(values), output.classes]
        texts = [text for row in values for text in _best(row, labels, output.classes)]
        elements, data = [text.encode() for text in texts], texts
    else:
        datatype, shape = output.spec.datatype, list(values.shape)
        elements = values.astype(np.float32)
        data = elements.ravel().tolist()
    described = {"name": output.spec.name, "datatype": datatype, "shape": shape}
    if not output.binary:
        return described | {"data": data}, None
    content = to_bytes(elements)
    return described | {"parameters": {"binary_data_size": len(content)}}, content


def _best(row: NDArray[Any], labels: Sequence[str], classes: int) -> list[str]:
    """`value:index:label` of the largest values, largest first."""
    best = np.argsort(-row, kind="stable")[:classes]
    return [f"{row[index]:f}:{index}:{labels[index]}" for index in best]
