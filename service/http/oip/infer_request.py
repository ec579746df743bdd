"""The body of an infer request --> what to compute and how to answer.

    body --Inference-Header-Content-Length--> JSON | tensors --checked against the view--> InferRequest

The header may also be 0: the body is then one row of the only input, bare. Content-Type says nothing, because clients
send anything (or nothing) there.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import islice
from math import prod
from typing import Any

from aaserve.service.attention.render import MAX_ARRAY_BYTES
from aaserve.service.errors import InvalidRequest, TooManyRows
from aaserve.service.http.body.json_body import parse_json
from aaserve.service.http.body.long_values import LONG
from aaserve.service.http.oip.tensor_data import Rows, from_bytes, from_json
from aaserve.service.http.oip.view import BYTES, TensorSpec, View
from aaserve.service.http.params import LOOKED_AT, resembling

LENGTH_HEADER = "Inference-Header-Content-Length"
_MAX_DIMENSIONS = 16
_MEMBERS = ("inputs", "outputs", "parameters")
_REQUEST_PARAMETERS = ("timeout", "binary_data_output")
_OUTPUT_PARAMETERS = ("binary_data", "classification")


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """One output as the client wants it."""

    spec: TensorSpec
    binary: bool
    classes: int = 0  # the best so many as value:index:label; 0 for the numbers themselves


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request that makes sense."""

    rows: Rows
    outputs: tuple[RequestedOutput, ...]
    attention: tuple[str, ...] = ()  # names of those outputs that are attention maps
    id: str | None = None
    timeout: float | None = None  # seconds


def read_infer_request(body: bytes, header_length: str | None, view: View, *, max_rows: int) -> InferRequest:
    """Read a body, already decompressed; `header_length` is the header as it came.

    Raises:
        InvalidRequest: anything off, in words for the client.
        TooManyRows: more than `max_rows`.
    """
    length = len(body) if header_length is None else _header_length(header_length, len(body))
    if length == 0 and header_length is not None:
        return _bare(memoryview(body), view)
    content = parse_json(
        body[:length],
        expected="a JSON object with `inputs`",
        image_hint=f"send {LENGTH_HEADER}: 0",
        max_items=max_rows,
    )
    content = _object(content, "the request")
    refuse_misspelt(content, _MEMBERS)
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise InvalidRequest(f"expected `inputs` with one input, {view.input.name!r}")
    parameters = _parameters(content)
    refuse_misspelt(parameters, _REQUEST_PARAMETERS)
    request_id = content.get("id")
    if not isinstance(request_id, str | None):
        raise InvalidRequest(f"expected `id` to be a string of at most {LONG} bytes")
    rows = _rows(_object(inputs[0], "an input"), memoryview(body)[length:], view.input, max_rows=max_rows)
    outputs = _outputs(content.get("outputs"), view, binary=_flag(parameters, "binary_data_output"))
    maps = [output.spec for output in outputs if output.spec in view.attention]
    if (size := 4 * len(rows) * sum(prod(spec.shape) for spec in maps)) > MAX_ARRAY_BYTES:
        raise InvalidRequest(
            f"the attention maps have {size} bytes, at most {MAX_ARRAY_BYTES} go into one answer; "
            "ask for fewer rows or outputs"
        )
    return InferRequest(
        rows=rows,
        outputs=outputs,
        attention=tuple(spec.name for spec in maps),
        id=request_id,
        timeout=_whole(parameters, "timeout") / 1e6 or None,  # microseconds
    )


def refuse_misspelt(given: Iterable[str], known: Collection[str]) -> None:
    """Refuse names that are nearly ours; the protocol lets clients send others, which mean nothing here."""
    for name in islice((name for name in given if name not in known), LOOKED_AT):
        if meant := resembling(name, known):
            raise InvalidRequest(f"unknown {name!r} in the request; did you mean {meant!r}?")


def _header_length(given: str, body_length: int) -> int:
    if not (given.isascii() and given.isdigit()) or len(given) > 19 or int(given) > body_length:
        raise InvalidRequest(f"expected {LENGTH_HEADER} from 0 to {body_length}, the bytes of the body")
    return int(given)


def _bare(content: memoryview, view: View) -> InferRequest:
    """A body without JSON: one row, all outputs as bytes; a picture comes without its length."""
    spec = view.input
    rows = [bytes(content)] if spec.datatype == BYTES else from_bytes(content, spec, (1, *spec.shape))
    return InferRequest(rows, tuple(RequestedOutput(output, binary=True) for output in view.outputs))


def _rows(tensor: dict[str, Any], tail: memoryview, spec: TensorSpec, *, max_rows: int) -> Rows:
    if tensor.get("name") != spec.name:
        raise InvalidRequest(f"expected the input {spec.name!r}, and no other")
    if tensor.get("datatype") != spec.datatype:
        raise InvalidRequest(f"expected datatype {spec.datatype} for {spec.name!r}")
    shape = _shape(tensor.get("shape"), spec)
    if shape[0] > max_rows:
        raise TooManyRows(f"more than {max_rows} rows in one request")
    parameters = _parameters(tensor)
    if "data" in tensor:
        if len(tail) or "binary_data_size" in parameters:
            raise InvalidRequest(f"the input {spec.name!r} has data twice, in JSON and behind it")
        return from_json(tensor["data"], spec, shape)
    if not len(tail) and "binary_data_size" not in parameters:
        raise InvalidRequest(f"the input {spec.name!r} has no data")
    if (size := _whole(parameters, "binary_data_size", default=len(tail))) != len(tail):
        raise InvalidRequest(f"binary_data_size says {size} bytes, and {len(tail)} follow the JSON")
    return from_bytes(tail, spec, shape)


def _shape(shape: object, spec: TensorSpec) -> tuple[int, ...]:
    expected = ", ".join(map(str, ("N", *spec.shape)))
    if (
        not isinstance(shape, list)
        or len(shape) > _MAX_DIMENSIONS
        or set(map(type, shape)) != {int}
        or tuple(shape[1:]) != spec.shape
        or shape[0] < 1
    ):
        raise InvalidRequest(f"expected the shape [{expected}] for {spec.name!r}, N at least 1")
    return tuple(shape)


def _outputs(wanted: object, view: View, *, binary: bool) -> tuple[RequestedOutput, ...]:
    if wanted is None or wanted == []:
        return tuple(RequestedOutput(spec, binary) for spec in view.outputs)
    if not isinstance(wanted, list):
        raise InvalidRequest("expected `outputs` to be a list")
    specs = {spec.name: spec for spec in (*view.outputs, *view.attention)}
    outputs: dict[str, RequestedOutput] = {}
    for item in wanted:
        name = _object(item, "an output").get("name")
        if not isinstance(name, str) or name not in specs or name in outputs:
            raise InvalidRequest(f"expected each of the outputs {', '.join(specs)} once at most, and no other")
        parameters = _parameters(item)
        refuse_misspelt(parameters, _OUTPUT_PARAMETERS)
        classes = _whole(parameters, "classification")
        if classes and (view.manifest.has_boxes or specs[name].shape != (len(view.manifest.labels),)):
            raise InvalidRequest(f"classification is for outputs with a number for each label, which {name!r} has not")
        outputs[name] = RequestedOutput(
            specs[name],
            binary=_flag(parameters, "binary_data", default=binary),
            classes=min(classes, len(view.manifest.labels)),
        )
    return tuple(outputs.values())


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"expected {what} to be a JSON object")
    return value


def _parameters(owner: dict[str, Any]) -> dict[str, Any]:
    given = owner.get("parameters")
    parameters = {} if given is None else _object(given, "`parameters`")
    if not set(map(type, parameters.values())) <= {str, int, float, bool}:
        raise InvalidRequest("expected `parameters` to be strings, numbers or booleans")
    if any(name.startswith("shared_memory") for name in parameters):
        raise InvalidRequest("there is no shared memory here; send the data with the request")
    return parameters


def _flag(parameters: dict[str, Any], name: str, *, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"expected the parameter {name} to be true or false")
    return value


def _whole(parameters: dict[str, Any], name: str, *, default: int = 0) -> int:
    value = parameters.get(name, default)
    if type(value) is not int or not 0 <= value < 2**63:
        raise InvalidRequest(f"expected the parameter {name} to be a whole number, 0 or more")
    return value
