"""Load shedding: refuse a request from its head while its model has no room, before a byte of its body is read.

head --Connection--> room for its model? --no--> 429 or 503, in one write; the body is read and thrown away
                            |
                           yes, or a key is missing --> the application, which asks again for the model that is meant

Under overload nearly every request ends here, so this is the cheapest way through the service: what refusals cost is
taken from the answers (decisions 0026 and 0034).
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import unquote

import httptools
from starlette.datastructures import QueryParams, State
from starlette.routing import BaseRoute

from aaserve.service.engine.predictor import Predictor
from aaserve.service.engine.queueing.admission import Admission
from aaserve.service.errors import Draining, ModelNotFound, NotAcceptable, NotReady, QueueFull, ServiceError
from aaserve.service.http.answers import header_lines
from aaserve.service.http.auth import client_of, refusal_for
from aaserve.service.http.body.body import has_fields
from aaserve.service.http.cors import cors_headers
from aaserve.service.http.direct_route import DirectRoute
from aaserve.service.http.error_responses import error_response
from aaserve.service.http.inference import ADDRESSES, expected, require_room
from aaserve.service.http.keys import Keys
from aaserve.service.http.observation import Observer, answer_headers, request_id
from aaserve.service.http.oip.view import split_name
from aaserve.service.http.params import TIMEOUT_HEADER
from aaserve.service.http.routes.detect import DETECT, is_drawn
from aaserve.service.http.routes.explain import EXPLAIN
from aaserve.service.observability.request_record import Record
from aaserve.service.repository.lifecycle import Lifecycle
from aaserve.service.repository.repository import ModelRepository
from aaserve.service.settings import Settings

_TIMEOUT_HEADER = TIMEOUT_HEADER.lower().encode()
_SOME_ID = "~" * 32  # in no text of ours
_REMEMBERED = 512  # bytes of an address, at most


@dataclass(frozen=True, slots=True)
class Target:
    """What the address of a request says.

    Args:
        endpoint: the route, if it runs a model: what clients make up must not become a label of a metric.
        task: that the endpoint is for; None for any.
        fields: whether a body may name the model.
    """

    path: str
    endpoint: str | None = None
    model: str | None = None
    version: str | None = None
    task: str | None = None
    fields: bool = False


# What decides whether a request is refused: its address; whether its client is slow; Content-Type, Accept and timeout.
Asked = tuple[bytes, bool, bytes, bytes, bytes]


@dataclass(slots=True)
class Alike:
    """Requests that are refused for the same reason in the same turn of the event loop.

    Args:
        model: that is meant, if it is certain.
        head: the header lines of their answers, but for those that differ.
        body: of their answers, with a request id that is to be replaced.
        seconds: how long each of them took.
    """

    refusal: ServiceError
    endpoint: str
    model: str
    head: bytes
    body: bytes
    seconds: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Refusal:
    """The answer to a request that was refused by its head.

    Args:
        headers: its own.
        head: header lines that are ready, beside them.
        closes: whether the headers say that the connection ends.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
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
        direct = [route for route in routes if isinstance(route, DirectRoute)]
        self._routes = [route for route in direct if "POST" in (route.methods or ())]
        self._put = {route.path for route in direct if "PUT" in (route.methods or ())}
        self._target = lru_cache(maxsize=256)(self._find)
        self._prepared: dict[tuple[str, str, int | None, str], tuple[bytes, bytes]] = {}
        # In this turn of the event loop: heads that come together must not all see the same room, and where there was
        # none a moment ago there is none now. Under overload many heads come in a turn.
        self._let_in: list[Admission] = []
        self._refused: dict[Asked, Alike] = {}
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
        target = self._target(url) if len(url) <= _REMEMBERED else self._find(url)
        if target.endpoint is None or (method == b"PUT" and target.endpoint not in self._put):
            return None
        if self._keys is not None and refusal_for(target.path, headers, self._keys):
            return None  # the application answers 401 or 403
        lifecycle: Lifecycle = self._state.lifecycle
        slow = lifecycle.usage.is_slow(client_of(headers, peer, self._keys))
        first = dict(reversed(headers))  # of several with one name, as the application reads them
        sent = first.get(b"content-type", b""), first.get(b"accept", b""), first.get(_TIMEOUT_HEADER, b"")
        asked = (url, slow, *sent)
        alike = self._refused.get(asked) or self._ask(target, asked)
        if alike is None:
            return None
        record = Record(request_id(headers))
        if len(record.request_id) == len(_SOME_ID) and record.request_id.isalnum():
            head, body = alike.head, alike.body.replace(_SOME_ID.encode(), record.request_id.encode())
        else:  # the body has another length
            head, body = _encoded(alike.refusal, record.request_id, alike.endpoint)
        own = [*answer_headers(record, lifecycle), *cors_headers(headers, self._settings)]
        alike.seconds.append(time.perf_counter() - record.started)
        return Refusal(alike.refusal.status, own, head, body, lifecycle.closes_connections)

    def _ask(self, target: Target, asked: Asked) -> Alike | None:
        """Those that are refused because the models that may be meant take no row now; None if one of them does."""
        _, slow, content_type, accept, timeout_ms = asked
        self._forget_soon()
        candidates: Sequence[Predictor] = ()
        try:
            slow = slow or target.endpoint == EXPLAIN
            slow = slow or (target.endpoint == DETECT and is_drawn(accept.decode("latin-1")))
            repository: ModelRepository = self._state.lifecycle.repository
            default = None
            if target.fields and has_fields(content_type.decode("latin-1")):
                candidates = repository.candidates(target.model, target.version, target.task)
                default = target.model or repository.default_for(target.task)
            else:
                candidates = [repository.predictor(target.model, target.version, target.task)]
            if all(target.task not in (None, each.manifest.task) for each in candidates):
                return None  # the application answers 422
            require_room(candidates, self._timeout(timeout_ms), slow=slow, behind_arriving=True)
        except (QueueFull, NotReady, Draining) as error:
            alike = self._refused[asked] = self._alike(target, error.without_origin(), candidates)
            return alike
        except (ModelNotFound, NotAcceptable):
            return None  # the application answers 404 or 406
        for admission in expected(candidates, default):
            admission.arriving += 1
            self._let_in.append(admission)
        return None

    def _alike(self, target: Target, refusal: ServiceError, candidates: Sequence[Predictor]) -> Alike:
        assert target.endpoint is not None
        model = candidates[0].manifest.name if len(candidates) == 1 else ""
        said = (refusal.code, str(refusal), refusal.retry_after, target.endpoint)
        prepared = self._prepared.get(said)
        if prepared is None:
            prepared = self._prepared[said] = _encoded(refusal, _SOME_ID, target.endpoint)
        return Alike(refusal, target.endpoint, model, *prepared)

    def _find(self, url: bytes) -> Target:
        parsed = httptools.parse_url(url)
        path = unquote(parsed.path.decode("ascii"))
        for route in self._routes:
            if found := route.path_regex.fullmatch(path):
                named = {**QueryParams((parsed.query or b"").decode("latin-1")), **found.groupdict()}
                model = named.get("model")
                protocol = route.path.startswith("/v2/")
                if model and protocol:
                    model, _ = split_name(model)
                return Target(path, route.path, model, named.get("version"), _task(route.path), fields=not protocol)
        return Target(path)

    def _forget_soon(self) -> None:
        if not self._forgetting:
            self._forgetting = True
            asyncio.get_running_loop().call_soon(self._forget)

    def _forget(self) -> None:
        for admission in self._let_in:
            admission.arriving -= 1
        self._let_in.clear()
        for alike in self._refused.values():
            self._observer.refused(alike.refusal, alike.endpoint, alike.model, alike.seconds)
        self._refused.clear()
        self._forgetting = False

    def _timeout(self, milliseconds: bytes) -> float:
        """Seconds that the request has; if its header makes no sense, the route will say so."""
        longest = self._settings.request_timeout_ms
        return (min(longest, int(milliseconds[:9])) or longest if milliseconds.isdigit() else longest) / 1000


def _encoded(refusal: ServiceError, request_id: str, endpoint: str) -> tuple[bytes, bytes]:
    answer = error_response(refusal, request_id, endpoint)
    return header_lines(answer.raw_headers), bytes(answer.body)


def _task(endpoint: str) -> str | None:
    """The task that an endpoint is for; None for any."""
    if endpoint == EXPLAIN:
        return "classification"
    return next((task for task, address in ADDRESSES.items() if endpoint.startswith(address)), None)
