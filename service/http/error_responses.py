"""Errors --> answers, in our words only and in the form that the clients of an address know.

    /v2/…                  {"error"}                    as the Open Inference Protocol has it
    /predictions/…, /ping  {"code", "type", "message"}  as TorchServe has it
    anything else          application/problem+json     RFC 9457

The two media types are exact: KServe's client compares the whole header.
"""

from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from aaserve.service.errors import InvalidParameter, ServiceError, UnsupportedEncoding
from aaserve.service.http.body.compression import ACCEPTED
from aaserve.service.http.methods import allowed, routes_at
from aaserve.service.http.params import range_of
from aaserve.service.http.schemas import PROBLEM_TYPE

FRAMEWORK_CODES = {404: "not_found", 405: "method_not_allowed"}
_TITLES = {status.value: status.phrase for status in HTTPStatus}
_REASONS = {
    "int_parsing": "is not a whole number",
    "float_parsing": "is not a number",
    "finite_number": "is not a finite number",
    "missing": "is missing",
}
_OUT_OF_RANGE = {"greater_than_equal", "less_than_equal"}
_TORCHSERVE_TYPES = {
    400: "BadRequestException",
    401: "InvalidKeyException",
    403: "InvalidKeyException",
    404: "ResourceNotFoundException",
    405: "MethodNotAllowedException",
    413: "RequestEntityTooLargeException",
    415: "UnsupportedMediaTypeException",
    429: "ServiceUnavailableException",
    503: "ServiceUnavailableException",
    504: "RequestTimeoutException",
}


def error_response(error: ServiceError, request_id: str, path: str, headers: dict[str, str] | None = None) -> Response:
    """The answer for an error at an address."""
    headers = headers or {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="aaserve"'
    if isinstance(error, UnsupportedEncoding):
        headers["Accept-Encoding"] = ACCEPTED  # RFC 9110, section 15.5.16
    if error.code == "body_too_large":
        headers["Connection"] = "close"  # the rest of the body is not worth reading
    first = path.split("/", 2)[1] if path.startswith("/") else ""
    if first == "v2":
        return Response(to_json({"error": str(error)}), error.status, headers, "application/json")
    if first in ("predictions", "ping"):
        return Response(to_json(_torchserve(error)), error.status, headers, "application/json")
    return Response(to_json(problem(error, request_id)), error.status, headers, PROBLEM_TYPE)


def problem(error: ServiceError, request_id: str) -> dict[str, Any]:
    """A `Problem`."""
    return {
        "type": "about:blank",
        "title": _TITLES[error.status],
        "status": error.status,
        "detail": str(error),
        "code": error.code,
        "request_id": request_id,
    }


async def on_service_error(request: Request, error: Exception) -> Response:
    """Translate our own errors."""
    assert isinstance(error, ServiceError)
    request.state.record.error = error.without_origin()
    return error_response(error, request.state.record.request_id, request.scope["path"])


async def on_invalid_parameter(request: Request, error: Exception) -> Response:
    """Translate FastAPI's finding that a parameter is off."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = first["loc"][-1]
    if first["type"] in _OUT_OF_RANGE:
        reason = f"must be {range_of(name)}, found {first['input'].strip()}"
    else:
        reason = _REASONS.get(first["type"], "is not valid")
    return await on_service_error(request, InvalidParameter(f"{name} {reason}"))


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Translate the framework's own answers, such as an unknown path."""
    assert isinstance(error, HTTPException)
    ours = ServiceError(_TITLES[error.status_code])
    ours.status, ours.code = error.status_code, FRAMEWORK_CODES.get(error.status_code, "invalid_request")
    request.state.record.error = ours
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:  # the framework names the methods of the first route only
        headers["Allow"] = allowed(routes_at(request.app.routes, request.scope))
    return error_response(ours, request.state.record.request_id, request.scope["path"], headers)


def _torchserve(error: ServiceError) -> dict[str, Any]:
    if error.code == "model_not_found":
        kind = "ModelNotFoundException"
    else:
        other = "InternalServerException" if error.status >= 500 else "BadRequestException"
        kind = _TORCHSERVE_TYPES.get(error.status, other)
    return {"code": error.status, "type": kind, "message": str(error)}
