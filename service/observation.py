"""What surrounds every request: its id, its record, its metrics, and an answer even if all else fails.

request --> Record in request.state --> early refusal, routes --> X-Request-ID, Server-Timing --> metrics
"""

import logging
import re
import time
import uuid
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ServiceError
from service.metrics import Metrics
from service.problems import problem

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
CLIENT_LEFT = 499  # nginx's word; nobody sees it but the metrics
log = logging.getLogger("aaserve")


@dataclass(slots=True)
class Record:
    """What is known of one request while it is answered; `stages` are seconds."""

    request_id: str
    started: float = field(default_factory=time.perf_counter)
    endpoint: str = "other"
    model: str = ""
    status: int = CLIENT_LEFT
    stages: dict[str, float] = field(default_factory=dict)
    error: ServiceError | None = None


class Observation:
    """Pure ASGI middleware, outermost."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = Record(_request_id(scope))
        scope.setdefault("state", {})["record"] = record

        async def send_observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = record.request_id
                headers["Server-Timing"] = _server_timing(record)
            await send(message)

        with self._metrics.inflight.track_inprogress():
            try:
                await self._app(scope, receive, send_observed)
            except ClientDisconnect:
                self._metrics.rejected.labels("disconnected").inc()
            except Exception as error:
                log.error("request %s failed", record.request_id, exc_info=error)
                if record.status == CLIENT_LEFT:
                    await problem(ServiceError(), record.request_id)(scope, receive, send_observed)
            finally:
                self._observe(scope, record)

    def _observe(self, scope: Scope, record: Record) -> None:
        endpoint = getattr(scope.get("route"), "path", record.endpoint)
        self._metrics.requests.labels(endpoint, record.model, record.status).inc()
        self._metrics.request_duration.labels(endpoint, record.model).observe(time.perf_counter() - record.started)
        if record.error is not None:
            self._metrics.rejected.labels(record.error.code).inc()
            if record.error.status == 500:
                log.error("request %s: %s", record.request_id, record.error.code, exc_info=record.error)


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _server_timing(record: Record) -> str:
    stages = {**record.stages, "total": time.perf_counter() - record.started}
    return ", ".join(f"{stage};dur={seconds * 1000:.2f}" for stage, seconds in stages.items())
