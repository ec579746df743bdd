"""Answers that the connection writes itself, without the application."""

from collections.abc import Iterable

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from aaserve.service.errors import ServiceError
from aaserve.service.http.cors import cors_headers
from aaserve.service.http.error_responses import error_response
from aaserve.service.http.observation import new_request_id
from aaserve.service.settings import Settings


def last_answer(refusal: ServiceError, url: bytes, headers: list[tuple[bytes, bytes]], settings: Settings) -> Response:
    """The answer to data that is no request, in the form of the address it was sent to. The connection ends with it."""
    request_id = new_request_id()
    answer = error_response(refusal, request_id, url.decode("latin-1"))
    answer.headers["X-Request-ID"] = request_id
    answer.headers["Connection"] = "close"
    answer.raw_headers += cors_headers(headers, settings)
    return answer


def encoded(answer: Response, default_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The bytes of an answer, as they are sent."""
    lines = [name + b": " + value + b"\r\n" for name, value in (*default_headers, *answer.raw_headers)]
    return b"".join([STATUS_LINE[answer.status_code], *lines, b"\r\n", bytes(answer.body)])
