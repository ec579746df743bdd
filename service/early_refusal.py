"""Refuses from the head alone what cannot be served now: before a byte of the body is read, before there is a request.

head --Connection--> room for it? --no--> 429 or 503, in one write; the body is read and thrown away
                         |
                        yes, or another answer goes first --> Observation, routes

Under overload nearly every request ends here, so this is the cheapest way through the service. What it lets through,
the route looks at again, with all it knows by then.
"""

import asyncio
import re
from functools import lru_cache
from urllib.parse import unquote

import httptools
from starlette.datastructures import State
from starlette.responses import Response

from service.access import refusal_for
from service.answer import Answer
from service.cors import cors_headers, origin_of
from service.errors import ServiceError
from service.keys import Keys
from service.lifecycle import Lifecycle
from service.observation import Observer, Record, answer_headers, request_id
from service.parameters import TIMEOUT_HEADER
from service.problems import problem
from service.settings import Settings

_USES_A_MODEL = re.compile(
    r"/classify|/classify/batch|/explain|/predictions/[^/]+(/[^/]+)?|/v2/models/[^/]+(/versions/[^/]+)?/infer"
)
_TIMEOUT_HEADER = TIMEOUT_HEADER.lower().encode()
_LENGTH_HEADER = b"content-length"


class EarlyRefusal:
    """What a `Connection` asks as soon as it has a head.

    Args:
        state: of the application, with its lifecycle once that has begun.
        keys: whose owners may ask; None where all may.
    """

    def __init__(self, state: State, settings: Settings, observer: Observer, keys: Keys | None) -> None:
        self._state = state
        self._settings = settings
        self._observer = observer
        self._keys = keys
        self._let_in = 0  # whose routes have not begun yet, so that no place is counted for them

    def answer(self, method: bytes, url: bytes, headers: list[tuple[bytes, bytes]]) -> Answer | None:
        """The whole answer to a request that is refused; None if it may go on.

        Args:
            headers: their names in lower case.

        Raises:
            httptools.HttpParserInvalidURLError: there is no path in the address.
        """
        if method not in (b"POST", b"PUT"):
            return None
        path, endpoint = _target(url)
        if endpoint is None:
            return None
        lifecycle: Lifecycle = self._state.lifecycle
        timeout_ms, length = self._limits(headers)
        refusal = lifecycle.refusal(body_bytes=length, timeout=timeout_ms / 1000, rows=1 + self._let_in)
        if refusal is None:
            lifecycle.knock()
            self._let_one_in()
            return None
        if self._keys is not None and refusal_for(path, headers, self._keys):
            return None  # the application says so
        record = Record(request_id(headers), endpoint=endpoint, status=refusal.status, error=refusal)
        answer = _answer(refusal, record.request_id, endpoint)
        answer.headers += answer_headers(record, lifecycle)
        answer.headers += cors_headers(origin_of(headers), self._settings)
        self._observer.ended(record, method.decode(), path)
        return answer

    def _let_one_in(self) -> None:
        """Until the event loop has come to its route: many heads that come at once must not all see the same room."""
        if not self._let_in:
            asyncio.get_running_loop().call_soon(self._routes_have_begun)
        self._let_in += 1

    def _routes_have_begun(self) -> None:
        self._let_in = 0

    def _limits(self, headers: list[tuple[bytes, bytes]]) -> tuple[int, int]:
        """Milliseconds and bytes that the request asks for; where it makes no sense, as much as is allowed."""
        timeout_ms, length = self._settings.request_timeout_ms, self._settings.max_body_bytes
        for name, value in headers:
            if name == _TIMEOUT_HEADER and value.isdigit():
                timeout_ms = min(timeout_ms, int(value[:9])) or timeout_ms
            elif name == _LENGTH_HEADER and value.isdigit():
                length = min(length, int(value[:20]))
        return timeout_ms, length


def _answer(refusal: ServiceError, request_id: str, endpoint: str) -> Answer:
    """As `problem`, without its cost for each request."""
    if '"' in request_id or "\\" in request_id:  # which are longer in JSON
        return Answer.of(problem(refusal, request_id, endpoint))
    without_id = "~" * len(request_id)  # in no text of ours
    prepared = _prepared(refusal.status, refusal.code, str(refusal), refusal.retry_after, without_id, endpoint)
    body = bytes(prepared.body).replace(without_id.encode(), request_id.encode())
    return Answer(refusal.status, list(prepared.raw_headers), body)


@lru_cache(maxsize=256)
def _prepared(status: int, code: str, detail: str, retry_after: int | None, request_id: str, endpoint: str) -> Response:
    refusal = ServiceError(detail)
    refusal.status, refusal.code, refusal.retry_after = status, code, retry_after
    return problem(refusal, request_id, endpoint)


@lru_cache(maxsize=256)
def _target(url: bytes) -> tuple[str, str | None]:
    """The path, and that of its route if it uses a model: whatever else somebody types must not become a label."""
    path = unquote(httptools.parse_url(url).path.decode("ascii"))
    return path, _endpoint(path) if _USES_A_MODEL.fullmatch(path) else None


def _endpoint(path: str) -> str:
    path = re.sub("^/v2/models/[^/]+", "/v2/models/{model}", path)
    path = re.sub("/versions/[^/]+", "/versions/{version}", path)
    return re.sub(
        "^/predictions/[^/]+", "/predictions/{model}", re.sub("^(/predictions/[^/]+)/.+", r"\1/{version}", path)
    )
