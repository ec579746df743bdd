"""What surrounds every request: its id, its record, its metrics, and an answer even if all else fails.

request --> Record in request.state --> routes --> X-Request-ID, Server-Timing --> metrics
"""

import logging
import re
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from random import getrandbits
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aaserve.service.errors import ServiceError
from aaserve.service.http.error_responses import error_response
from aaserve.service.observability.logs import RefusalLog, log_request
from aaserve.service.observability.metrics import Metrics
from aaserve.service.observability.request_record import CLIENT_LEFT, Record
from aaserve.service.settings import LoggedRequests

if TYPE_CHECKING:
    from aaserve.service.observability.tracing import Tracing
    from aaserve.service.repository.lifecycle import Lifecycle

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
# Asked every few seconds, by machines.
UNLOGGED = frozenset({"/health/live", "/health/ready", "/metrics", "/ping", "/v2/health/live", "/v2/health/ready"})
_REFUSED = frozenset({401, 429, 503})  # as many as strangers like, so the log has their number only
_LOGGED_FROM: dict[LoggedRequests, int] = {"all": 0, "errors": 400, "none": 600}  # statuses
log = logging.getLogger("aaserve")


class Observer:
    """Puts every request into the metrics and the log, whether a route or the connection answered it."""

    def __init__(self, metrics: Metrics, logged: LoggedRequests = "all") -> None:
        self.metrics = metrics
        self._logged_from = _LOGGED_FROM[logged]
        self._refusals = RefusalLog()
        # Looking series up by their labels takes longer than counting.
        self._requests = lru_cache(maxsize=1024)(metrics.requests.labels)
        self._duration = lru_cache(maxsize=1024)(metrics.request_duration.labels)
        self._stage = lru_cache(maxsize=1024)(metrics.stage_duration.labels)
        self._rejected = lru_cache(maxsize=64)(metrics.rejected.labels)

    def ended(self, record: Record, method: str, path: str) -> None:
        """Note that the answer is sent, or that the client has left."""
        now = time.perf_counter()
        if record.predicted_at is not None:
            record.stages["respond"] = now - record.predicted_at
        self._requests(record.endpoint, record.model, record.status).inc()
        self._duration(record.endpoint, record.model).observe(now - record.started)
        for stage, seconds in record.stages.items():
            self._stage(stage, record.model).observe(seconds)
        if record.status in _REFUSED and record.error:
            if record.status != 503 or record.endpoint not in UNLOGGED:  # the answer of a probe is no refusal
                self._refusals.add(record.error.code)
        elif record.status >= max(self._logged_from, 500 if record.endpoint in UNLOGGED else 0):
            log_request(_facts(record, method, path, now))
        if record.error is not None:
            self._rejected(record.error.code).inc()
            if record.error.status == 500:
                log.error("request %s: %s", record.request_id, record.error.code, exc_info=record.error)

    def refused(self, refusal: ServiceError, endpoint: str, model: str, seconds: Sequence[float]) -> None:
        """Note requests that were refused by their heads for one reason, in so many seconds each."""
        self._requests(endpoint, model, refusal.status).inc(len(seconds))
        duration = self._duration(endpoint, model)
        for each in seconds:
            duration.observe(each)
        self._refusals.add(refusal.code, len(seconds))
        self._rejected(refusal.code).inc(len(seconds))

    def close(self) -> None:
        """Log what is to be logged of requests that have ended."""
        self._refusals.close()


class Observation:
    """Pure ASGI middleware, outermost."""

    def __init__(self, app: ASGIApp, observer: Observer, tracing: "Tracing | None" = None) -> None:
        self._app = app
        self._observer = observer
        self._metrics = observer.metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = Record(request_id(scope["headers"]))
        scope.setdefault("state", {})["record"] = record
        if self._tracing:
            self._tracing.begin()

        disconnected = False

        async def receive_observed() -> Message:
            nonlocal disconnected
            try:
                message = await receive()
            except Exception:  # as Ray's proxies do when the client, or they themselves, have gone
                message = {"type": "http.disconnect"}
            disconnected = disconnected or message["type"] == "http.disconnect"
            return message

        async def send_observed(message: Message) -> None:
            if message["type"] == "http.response.start" and not disconnected:
                record.status = message["status"]
                headers = answer_headers(record, scope["app"].state.lifecycle)
                if self._tracing:
                    self._tracing.finish(record)
                    headers += self._tracing.response_headers()
                message["headers"] = [*message["headers"], *headers]
            try:
                await send(message)
            except OSError as error:  # ASGI's way to say that the client has gone
                raise ClientDisconnect from error

        counted = scope["path"] not in UNLOGGED
        self._metrics.being_answered += counted
        try:
            await self._app(scope, receive_observed, send_observed)
        except ClientDisconnect:
            pass
        except Exception as error:
            if not disconnected:  # otherwise the request was given up, and any error may come of that
                log.error("request %s failed", record.request_id, exc_info=error)
                if record.status == CLIENT_LEFT:
                    answer = error_response(ServiceError(), record.request_id, scope["path"])
                    await answer(scope, receive, send_observed)
        finally:
            self._metrics.being_answered -= counted
            if record.status == CLIENT_LEFT:
                self._metrics.rejected.labels("disconnected").inc()
            if self._tracing and record.status == CLIENT_LEFT:
                self._tracing.finish(record)
            record.endpoint = getattr(scope.get("route"), "path", record.endpoint)
            self._observer.ended(record, scope["method"], scope["path"])


def answer_headers(record: Record, lifecycle: "Lifecycle") -> list[tuple[bytes, bytes]]:
    """What every answer has beside its own."""
    headers = [
        (b"x-request-id", record.request_id.encode()),
        (b"server-timing", _server_timing(record).encode()),
    ]
    if lifecycle.closes_connections:
        headers.append((b"connection", b"close"))
    return headers


def _facts(record: Record, method: str, path: str, now: float) -> dict[str, Any]:
    """What the log says of a request."""
    return {
        "request_id": record.request_id,
        "method": method,
        "path": path,
        "status": record.status,
        "outcome": record.outcome,
        "model": record.model,
        "version": record.version,
        "batch_size": record.batch_size,
        "total_ms": round((now - record.started) * 1000, 3),
        "stages_ms": {stage: round(seconds * 1000, 3) for stage, seconds in record.stages.items()},
    }


def new_request_id() -> str:
    """Thirty-two hexadecimal digits that need only be rare, not hard to guess."""
    return f"{getrandbits(128):032x}"


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The caller's own if it is fit to be printed, a new one otherwise."""
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return new_request_id()


def _server_timing(record: Record) -> str:
    stages = "".join([f"{stage};dur={seconds * 1000:.2f}, " for stage, seconds in record.stages.items()])
    return f"{stages}total;dur={(time.perf_counter() - record.started) * 1000:.2f}"
