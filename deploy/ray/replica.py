"""The service as replicas of Ray Serve: `import_path: deploy.ray.replica:application` (docs/ray.md).

client --> Ray's proxy on any node --> the replica with the fewest requests: create_app(settings), a process of its own

A replica serves what `python -m service` serves, with its own batcher and admission. Ray starts, watches, scales and
stops it. Settings come from AASERVE_* in the environment, as everywhere.
"""

import logging
import os

import ray
from fastapi import FastAPI
from prometheus_client import start_http_server
from pydantic import BaseModel, Field
from ray import serve
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aaserve.service.errors import StartFailed
from aaserve.service.http.app import create_app
from aaserve.service.observability.logs import configure_logging
from aaserve.service.repository.lifecycle import Lifecycle, State
from aaserve.service.settings import Settings

_REQUEST_ID = b"x-request-id"
_RAYS_BUSINESS = {"host", "port", "workers", "drain_grace_ms", "tls_certificate", "tls_key", "tracing"}
log = logging.getLogger("aaserve")


class Arguments(BaseModel, extra="forbid"):
    """`args` of the application in Serve's configuration."""

    metrics_port: int = Field(
        0, ge=0, le=65535, description="Metrics port of each replica, with one replica per node; 0: none."
    )


@serve.deployment(name="aaserve")
@serve.ingress()  # the application is built in each replica: __serve_build_asgi_app__
class Replica:
    """One process that serves all models of the repository."""

    def __init__(self, metrics_port: int) -> None:
        settings = _settings()
        logs = configure_logging(settings.log_format, settings.log_level)
        self._metrics_port = metrics_port
        self._app = create_app(settings)
        logs.on_dropped = self._app.state.metrics.log_lines_dropped.inc
        self._app.add_middleware(_OneRequestId)

    def __serve_build_asgi_app__(self) -> FastAPI:  # Ray's name; it runs the lifespan, at the end after the last answer
        return self._app

    async def check_health(self) -> None:
        """Called by Ray before the first request and every few seconds; if it raises, Ray replaces the replica.

        The first call returns when the models are warm. A replica that reopens a session is kept.
        """
        lifecycle: Lifecycle = self._app.state.lifecycle
        await lifecycle.started()
        if lifecycle.state is State.FAILED:
            raise StartFailed(lifecycle.failure or "a model stopped working")
        self._offer_metrics()

    def _offer_metrics(self) -> None:
        if not self._metrics_port:
            return
        try:
            start_http_server(self._metrics_port, registry=self._app.state.metrics.registry)
            self._metrics_port = 0
        except OSError as error:  # probably the previous replica on this node has not ended yet
            log.warning("metrics port %d: %s; trying again", self._metrics_port, error.strerror)


class _OneRequestId:
    """Ray's proxy adds the same X-Request-ID as we do; clients must not get it twice."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [header for header in message["headers"] if header[0] != _REQUEST_ID]
            await send(message)

        await self._app(scope, receive, send_without)


def _settings() -> Settings:
    """Settings from the environment. Default number of threads: the cores granted by Ray, not those of the node."""
    cores = max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))
    unset = {
        name for name in ("intra_op_num_threads", "decode_threads") if not os.environ.get(f"AASERVE_{name.upper()}")
    }
    settings = Settings(**dict.fromkeys(unset, cores))
    if without_effect := sorted(settings.model_fields_set & _RAYS_BUSINESS):
        raise StartFailed(f"AASERVE_{without_effect[0].upper()}: not available in a replica of Ray Serve; remove it")
    return settings


def application(arguments: Arguments) -> serve.Application:
    """The application that Ray deploys."""
    return Replica.bind(arguments.metrics_port)
