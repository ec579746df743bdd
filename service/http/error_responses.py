"""Errors --> answers, in our words only; `error_forms` has the form that each address wants them in."""

from http import HTTPStatus

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from aaserve.service.errors import InvalidParameter, ServiceError, UnsupportedEncoding
from aaserve.service.http.body.compression import ACCEPTED
from aaserve.service.http.error_forms import error_body
from aaserve.service.http.methods import allowed, routes_at
from aaserve.service.http.schemas import Problem

FRAMEWORK_CODES = {404: "not_found", 405: "method_not_allowed"}
_REASONS = {
    "int_parsing": "is not a whole number",
    "greater_than_equal": "is too small",
    "less_than_equal": "is too large",
    "missing": "is missing",
}


def problem(error: ServiceError, request_id: str, path: str) -> Response:
    """The answer for one of our own errors at an address."""
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="aaserve"'
    if isinstance(error, UnsupportedEncoding):
        headers["Accept-Encoding"] = ACCEPTED  # RFC 9110, section 15.5.16
    if error.code == "body_too_large":
        headers["Connection"] = "close"  # the rest of the body is not worth reading
    return _response(path, described(error, request_id), headers)


def described(error: ServiceError, request_id: str) -> Problem:
    """One of our own errors, in words and figures."""
    return _problem(error.status, error.code, str(error), request_id)


async def on_service_error(request: Request, error: Exception) -> Response:
    """Translate our own errors."""
    assert isinstance(error, ServiceError)
    request.state.record.error = error.without_origin()
    return problem(error, request.state.record.request_id, request.scope["path"])


async def on_invalid_parameter(request: Request, error: Exception) -> Response:
    """Translate FastAPI's finding that a parameter is off."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    reason = _REASONS.get(first["type"], "is not valid")
    return await on_service_error(request, InvalidParameter(f"{first['loc'][-1]} {reason}"))


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Translate the framework's own answers, such as an unknown path."""
    assert isinstance(error, HTTPException)
    ours = ServiceError(HTTPStatus(error.status_code).phrase)
    ours.status, ours.code = error.status_code, FRAMEWORK_CODES.get(error.status_code, "invalid_request")
    request.state.record.error = ours
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = allowed(
            routes_at(request.app.routes, request.scope)
        )  # the framework names the first route's
    return _response(request.scope["path"], described(ours, request.state.record.request_id), headers)


def _problem(status: int, code: str, detail: str, request_id: str) -> Problem:
    return Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, code=code, request_id=request_id)


def _response(path: str, described: Problem, headers: dict[str, str]) -> Response:
    body, media_type = error_body(path, described)
    return Response(body, described.status, headers, media_type)
