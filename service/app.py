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

from service import (
    admin_routes,
    batch_routes,
    explain_routes,
    model_routes,
    operator_routes,
    page_routes,
    routes,
    torchserve_routes,
)
from service.access import Access
from service.cors import EXPOSED_HEADERS
from service.direct_route import DirectRoutes, OnError
from service.early_refusal import EarlyRefusal
from service.errors import ServiceError
from service.keys import Keys
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.observation import UNLOGGED, Observation, Observer
from service.openapi import Application
from service.parameters import TIMEOUT_HEADER
from service.problems import on_http_exception, on_invalid_parameter, on_service_error
from service.process_metrics import watch_process
from service.protocol import infer_routes
from service.protocol import model_routes as protocol_routes
from service.settings import Settings
from service.short_way import ShortWay
from service.triton_names import TritonNames
from service.version import VERSION
from service.workers import Worker

if TYPE_CHECKING:
    from service.tracing import Tracing


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
    if worker is None:  # whoever is scraped could only speak of itself
        watch_process(metrics.registry)
    if settings.metrics_compat == "triton":
        metrics.registry.register(TritonNames(metrics))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        reporting = asyncio.create_task(metrics.keep_reporting())
        async with Lifecycle(settings, metrics, tracing, on_failure=on_failure) as lifecycle:
            app.state.lifecycle = lifecycle
            if worker and not worker.first:
                await lifecycle.started()  # another may serve meanwhile; nobody should be refused here
                await worker.knock()
            yield
        reporting.cancel()
        metrics.refresh()  # for whoever is scraped after this worker's end

    app = Application(
        title="aaserve",
        description="Attention-augmented image classification.",
        version=VERSION,
        lifespan=lifespan,
        redirect_slashes=False,  # a redirect would name whatever host the client said
        telemetry=_telemetry(tracing),
        docs_url=None,  # FastAPI's pages load their script from elsewhere; /openapi.json stays
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.metrics = metrics
    for part in (
        routes,
        batch_routes,
        explain_routes,
        infer_routes,
        protocol_routes,
        torchserve_routes,
        model_routes,
        operator_routes,
        admin_routes,
        page_routes,
    ):
        app.router.routes.extend(part.router.routes)  # as they are: an included router is gone through twice a request
    on_error: dict[type[Exception], OnError] = {
        ServiceError: on_service_error,
        RequestValidationError: on_invalid_parameter,
        HTTPException: on_http_exception,
    }
    for error, handler in on_error.items():
        app.add_exception_handler(error, handler)
    if tracing is None:  # whose spans FastAPI makes, on the long way
        app.add_middleware(DirectRoutes, routes=app.router.routes, on_error=on_error)
    keys = Keys(settings.api_keys_file) if settings.api_keys_file is not None else None
    if keys is not None:
        app.add_middleware(Access, keys=keys)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins.split(","),
            allow_methods=["GET", "POST", "PUT"],
            allow_headers=["Authorization", TIMEOUT_HEADER, "X-Request-ID"],
            expose_headers=EXPOSED_HEADERS,
        )
    observer = Observer(metrics)
    app.add_middleware(Observation, observer=observer, tracing=tracing)  # the last one added is the outermost
    if tracing is None:
        app.state.early_refusal = EarlyRefusal(app.state, settings, observer, keys)
        if keys is None and not settings.cors_origins:  # whose middlewares have a say in every answer
            app.state.short_way = ShortWay(app.state, settings, observer)
    return app


def _telemetry(tracing: "Tracing | None") -> TelemetryConfig:
    """Nothing phones home by itself; FastAPI makes the span of each request where traces were asked for."""
    telemetry: TelemetryConfig = {
        "auto_configure": False,
        "tracing": False,
        "metrics": False,
        "logs": False,
        "operation_spans": False,
    }
    if tracing:
        telemetry |= {
            "tracing": True,
            "tracer_provider": tracing.provider,
            "exclude": lambda scope: scope["path"] in UNLOGGED,
        }
    return telemetry
