"""Answers that the connection writes itself, without the application."""

from collections.abc import Iterable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from aaserve.service.errors import ServiceError
from aaserve.service.http.answers import header_lines
from aaserve.service.http.cors import cors_headers
from aaserve.service.http.error_responses import error_response
from aaserve.service.http.observation import new_request_id
from aaserve.service.settings import Settings

Headers = Iterable[tuple[bytes, bytes]]


def last_answer(
    refusal: ServiceError, url: bytes, request: list[tuple[bytes, bytes]], settings: Settings, default_headers: Headers
) -> bytes:
    """The answer to data that is no request, in the form of the address it was sent to. The connection ends with it."""
    request_id = new_request_id()
    answer = error_response(refusal, request_id, url.decode("latin-1"))
    answer.headers["X-Request-ID"] = request_id
    answer.headers["Connection"] = "close"
    answer.raw_headers += cors_headers(request, settings)
    return encoded(answer.status_code, [*default_headers, *answer.raw_headers], b"", bytes(answer.body))


def encoded(status: int, headers: Headers, head: bytes, body: bytes) -> bytes:
    """An answer as it is sent; `head` are header lines that are ready."""
    return b"".join([STATUS_LINE[status], header_lines(headers), head, b"\r\n", body])
