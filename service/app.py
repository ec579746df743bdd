"""The application: one lifecycle, its routes, and what surrounds them. Importing this does nothing."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from bundle.bundle import Bundle
from service import batch_routes, model_routes, operator_routes, page_routes, routes
from service.early_refusal import EarlyRefusal
from service.errors import ServiceError
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.observation import Observation
from service.problems import on_http_exception, on_invalid_parameter, on_service_error
from service.process_metrics import watch_process
from service.settings import Settings
from service.triton_names import TritonNames


def create_app(
    settings: Settings, bundles: Sequence[Bundle], *, on_failure: Callable[[], None] = lambda: None
) -> FastAPI:
    """Build the application that serves `bundles`; `on_failure` is called if one of them cannot be loaded."""
    metrics = Metrics()
    watch_process(metrics.registry)
    if settings.metrics_compat == "triton":
        metrics.registry.register(TritonNames(metrics))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Lifecycle(bundles, settings, metrics, on_failure=on_failure) as lifecycle:
            app.state.lifecycle = lifecycle
            yield

    app = FastAPI(
        title="aaserve",
        description="Attention-augmented image classification.",
        lifespan=lifespan,
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},  # nothing phones home
    )
    app.state.settings = settings
    app.state.metrics = metrics
    for part in (routes, batch_routes, operator_routes, model_routes, page_routes):
        app.include_router(part.router)
    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(RequestValidationError, on_invalid_parameter)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_middleware(EarlyRefusal, settings=settings)
    app.add_middleware(Observation, metrics=metrics)  # the last one added is the outermost
    return app
