"""Load shedding: refuse a request from its head while no model has room, before a byte of its body is read.

head --Connection--> a model with room? --no--> 429 or 503, in one write; the body is read and thrown away
                            |
                           yes, or a key is missing --> the application, which asks again for the model that is meant

Under overload nearly every request ends here, so this is the cheapest way through the service: what refusals cost is
taken from the answers (decisions 0026 and 0034).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

import httptools
from starlette.datastructures import State
from starlette.routing import BaseRoute

from aaserve.service.errors import ServiceError
from aaserve.service.http.answers import header_lines
from aaserve.service.http.auth import client_of, refusal_for
from aaserve.service.http.body.receiving import ReceiveStage
from aaserve.service.http.cors import cors_headers
from aaserve.service.http.direct_route import DirectRoute
from aaserve.service.http.error_responses import error_response
from aaserve.service.http.keys import Keys
from aaserve.service.http.observation import Observer, answer_headers, request_id
from aaserve.service.http.params import TIMEOUT_HEADER
from aaserve.service.http.routes.explain import EXPLAIN
from aaserve.service.observability.request_record import Record
from aaserve.service.repository.lifecycle import Lifecycle
from aaserve.service.settings import Settings

_TIMEOUT_HEADER = TIMEOUT_HEADER.lower().encode()
_SOME_ID = "~" * 32  # in no text of ours


@dataclass(slots=True)
class Refusal:
    """The answer to a request that was refused by its head.

    Args:
        head: its headers, as they are sent.
        closes: whether they say that the connection ends.
    """

    status: int
    head: bytes
    body: bytes
    closes: bool


class LoadShedding:
    """What a connection asks as soon as it has a head.

    Args:
        state: of the application, with its lifecycle once that has begun.
        keys: None if requests need none.
        routes: of the application; load is shed where one of them is direct and takes a body.
    """

    def __init__(
        self, state: State, settings: Settings, observer: Observer, keys: Keys | None, routes: Sequence[BaseRoute]
    ) -> None:
        self._state = state
        self._settings = settings
        self._observer = observer
        self._keys = keys
        self._routes = [route for route in routes if isinstance(route, DirectRoute) and "POST" in (route.methods or ())]
        self._target = lru_cache(maxsize=256)(self._find)
        self._prepared: dict[tuple[str, str, int | None, str], tuple[bytes, bytes]] = {}
        self._let_in = 0  # in this turn of the event loop
        # In this turn as well: there is no more room than a moment ago. Under overload many heads come in a turn.
        self._refused: dict[tuple[float, bool], ServiceError] = {}
        self._forgetting = False

    def answer(
        self, method: bytes, url: bytes, headers: list[tuple[bytes, bytes]], peer: tuple[str, int] | None
    ) -> Refusal | None:
        """The answer to a request that is refused; None if it may go on.

        Args:
            headers: their names in lower case.
            peer: address and port of the client.

        Raises:
            httptools.HttpParserInvalidURLError: there is no path in the address.
        """
        if method not in (b"POST", b"PUT"):
            return None
        path, endpoint = self._target(url)
        if endpoint is None:
            return None
        lifecycle: Lifecycle = self._state.lifecycle
        slow = endpoint == EXPLAIN or lifecycle.usage.is_slow(client_of(headers, peer, self._keys))
        timeout = self._timeout_ms(headers) / 1000
        refusal = self._refused.get((timeout, slow))
        if refusal is None:
            refusal = lifecycle.refusal(timeout=timeout, arriving=self._arriving(), slow=slow)
            self._forget_soon()
            if refusal is None:
                self._let_in += 1
                return None
            self._refused[timeout, slow] = refusal
        if self._keys is not None and refusal_for(path, headers, self._keys):
            return None  # the application answers 401 or 403
        record = Record(request_id(headers), endpoint=endpoint, status=refusal.status, error=refusal)
        head, body = self._answer(refusal, record.request_id, endpoint)
        added = [*answer_headers(record, lifecycle), *cors_headers(headers, self._settings)]
        self._observer.ended(record, method.decode(), path)
        return Refusal(refusal.status, head + header_lines(added), body, lifecycle.closes_connections)

    def _answer(self, refusal: ServiceError, request_id: str, endpoint: str) -> tuple[bytes, bytes]:
        """Headers and body of `error_response`; two refusals that say the same differ by the id only."""
        if len(request_id) != len(_SOME_ID) or not request_id.isalnum():  # else the body has another length
            return _encoded(refusal, request_id, endpoint)
        said = (refusal.code, str(refusal), refusal.retry_after, endpoint)
        prepared = self._prepared.get(said)
        if prepared is None:
            prepared = self._prepared[said] = _encoded(refusal, _SOME_ID, endpoint)
        head, body = prepared
        return head, body.replace(_SOME_ID.encode(), request_id.encode())

    def _find(self, url: bytes) -> tuple[str, str | None]:
        """The path, and its route if it runs a model: what clients make up must not become a label of a metric."""
        path = unquote(httptools.parse_url(url).path.decode("ascii"))
        return path, next((route.path for route in self._routes if route.path_regex.fullmatch(path)), None)

    def _arriving(self) -> int:
        """Rows that were let in and hold no permit yet: heads that come together must not all see the same room."""
        stage: ReceiveStage = self._state.receive_stage
        return self._let_in + stage.arriving

    def _forget_soon(self) -> None:
        if not self._forgetting:
            self._forgetting = True
            asyncio.get_running_loop().call_soon(self._forget)

    def _forget(self) -> None:
        self._let_in, self._forgetting = 0, False
        self._refused.clear()

    def _timeout_ms(self, headers: list[tuple[bytes, bytes]]) -> int:
        """Milliseconds that the request has; if its header makes no sense, the route will say so."""
        longest = self._settings.request_timeout_ms
        for name, value in headers:
            if name == _TIMEOUT_HEADER and value.isdigit():
                return min(longest, int(value[:9])) or longest
        return longest


def _encoded(refusal: ServiceError, request_id: str, endpoint: str) -> tuple[bytes, bytes]:
    answer = error_response(refusal, request_id, endpoint)
    return header_lines(answer.raw_headers), bytes(answer.body)
