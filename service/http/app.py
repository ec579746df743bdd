"""The application: one lifecycle, its routes, and what surrounds them. Importing this does nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from aaserve.service.errors import ServiceError
from aaserve.service.http.auth import Access
from aaserve.service.http.body.receiving import ReceiveStage
from aaserve.service.http.cors import METHODS, REQUEST_HEADERS, RESPONSE_HEADERS
from aaserve.service.http.direct_route import DirectRoutes, OnError
from aaserve.service.http.error_responses import on_http_exception, on_invalid_parameter, on_service_error
from aaserve.service.http.keys import Keys
from aaserve.service.http.load_shedding import LoadShedding
from aaserve.service.http.methods import Methods
from aaserve.service.http.observation import UNLOGGED, Observation, Observer
from aaserve.service.http.oip import infer_routes
from aaserve.service.http.oip import model_routes as oip_routes
from aaserve.service.http.routes import admin, classify, detect, explain, health, models, page, torchserve
from aaserve.service.http.state import Worker
from aaserve.service.observability.metrics import Metrics
from aaserve.service.observability.process_metrics import watch_process, watch_workers
from aaserve.service.observability.triton_metrics import TritonNames
from aaserve.service.repository.lifecycle import Lifecycle
from aaserve.service.settings import Settings
from aaserve.service.version import VERSION

if TYPE_CHECKING:
    from aaserve.service.observability.tracing import Tracing

_PARTS = (classify, detect, explain, infer_routes, oip_routes, torchserve, models, health, admin, page)
_ON_ERROR: dict[type[Exception], OnError] = {
    ServiceError: on_service_error,
    RequestValidationError: on_invalid_parameter,
    HTTPException: on_http_exception,
}


def create_app(
    settings: Settings,
    *,
    worker: Worker | None = None,
    tracing: "Tracing | None" = None,
    on_failure: Callable[[], None] = lambda: None,
) -> FastAPI:
    """Build the application that serves the settings' repository, as this worker if there are several.

    `on_failure` is called if nothing can be served or a model is lost.
    """
    metrics = Metrics(worker.slot if worker else None, settings.gpu_device_id)
    if worker is None:
        watch_process(metrics.registry)
    else:
        watch_workers(metrics.registry, worker.supervisor)
    if settings.metrics_compat == "triton":
        metrics.registry.register(TritonNames(metrics))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        reporting = asyncio.create_task(metrics.keep_reporting())
        shared = worker.shared if worker else None
        async with Lifecycle(settings, metrics, tracing, on_failure=on_failure, shared=shared) as lifecycle:
            app.state.lifecycle = lifecycle
            if app.state.stopping:
                lifecycle.stop()
            yield
        observer.close()
        reporting.cancel()
        metrics.refresh()  # other workers report these figures after this one has ended

    app = FastAPI(
        title="aaserve",
        description="Attention-augmented image classification and object detection.",
        version=VERSION,
        lifespan=lifespan,
        redirect_slashes=False,  # a redirect would name the host that the client sent
        telemetry=_telemetry(tracing),
        docs_url=None,  # FastAPI's pages load their script from elsewhere; /openapi.json stays
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.worker = worker
    app.state.stopping = False  # true if a signal asked for it before there was anything to stop
    app.state.metrics = metrics
    app.state.receive_stage = ReceiveStage(settings.max_inflight_bytes)
    metrics.watch_receiving(app.state.receive_stage)
    for part in _PARTS:
        app.router.routes.extend(part.router.routes)  # as they are: an included router is gone through twice a request
    for error, handler in _ON_ERROR.items():
        app.add_exception_handler(error, handler)
    if tracing is None:  # FastAPI makes the span of each request that is traced
        app.add_middleware(DirectRoutes, routes=app.router.routes, on_error=_ON_ERROR)
    keys = app.state.keys = Keys(settings.api_keys_file) if settings.api_keys_file is not None else None
    if keys is not None:
        app.add_middleware(Access, keys=keys)
    app.add_middleware(Methods, routes=app.router.routes)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins.split(","),
            allow_methods=METHODS,
            allow_headers=REQUEST_HEADERS,
            expose_headers=RESPONSE_HEADERS,
        )
    observer = Observer(metrics, settings.log_requests)
    app.add_middleware(Observation, observer=observer, tracing=tracing)  # the last one added is the outermost
    if tracing is None:
        app.state.load_shedding = LoadShedding(app.state, settings, observer, keys, app.router.routes)
    return app


def _telemetry(tracing: "Tracing | None") -> TelemetryConfig:
    """Nothing phones home by itself; FastAPI makes the span of each request where traces were asked for."""
    off: TelemetryConfig = {"auto_configure": False, "metrics": False, "logs": False, "operation_spans": False}
    if tracing is None:
        return {**off, "tracing": False}
    spans: TelemetryConfig = {"tracing": True, "tracer_provider": tracing.provider}
    return {**off, **spans, "exclude": lambda scope: scope["path"] in UNLOGGED}
