"""Prometheus metrics: names, labels and buckets. docs/operations.md lists them for those who scrape."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bundle.bundle import MODEL_FILE, Bundle

# Resolve a service that answers in 2 to 50 ms; the client library's own buckets start at 5 ms.
SECONDS = (
    0.0005,
    0.001,
    0.002,
    0.003,
    0.005,
    0.0075,
    0.01,
    0.015,
    0.02,
    0.03,
    0.05,
    0.075,
    0.1,
    0.15,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """All metrics of one running service, in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "aaserve_requests_total", "HTTP requests answered.", ["endpoint", "model", "code"], registry=registry
        )
        self.request_duration = Histogram(
            "aaserve_request_duration_seconds",
            "From the request's head to the end of its answer.",
            ["endpoint", "model"],
            buckets=SECONDS,
            registry=registry,
        )
        self.stage_duration = Histogram(
            "aaserve_stage_duration_seconds",
            "Where the time of answered requests went.",
            ["stage", "model"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "aaserve_batch_size", "Rows in one model call.", ["model"], buckets=ROWS, registry=registry
        )
        self.queue_depth = Gauge("aaserve_queue_depth", "Rows waiting for the model.", ["model"], registry=registry)
        self.queue_capacity = Gauge("aaserve_queue_capacity", "Rows that may wait.", ["model"], registry=registry)
        self.inflight = Gauge("aaserve_inflight_requests", "Requests being answered.", registry=registry)
        self.rejected = Counter(
            "aaserve_rejected_total",
            "Requests (of a batch: images) not answered as asked.",
            ["reason"],
            registry=registry,
        )
        self.images = Counter("aaserve_images_total", "Images received.", ["format", "outcome"], registry=registry)
        self.model_info = Gauge(
            "aaserve_model_info",
            "What is served; always 1.",
            ["model", "version", "sha256", "provider", "precision"],
            registry=registry,
        )
        self.model_ready = Gauge(
            "aaserve_model_ready", "1 while the model answers.", ["model", "version"], registry=registry
        )
        self.model_reopened = Counter(
            "aaserve_model_reopened_total", "Sessions that died and were opened again.", ["model"], registry=registry
        )

    def observe_stages(self, model: str, stages: dict[str, float]) -> None:
        """Record seconds by stage."""
        for stage, seconds in stages.items():
            self.stage_duration.labels(stage, model).observe(seconds)

    def watch_queue(self, model: str, depth: Callable[[], int], capacity: int) -> None:
        """Report `depth()` at each scrape."""
        self.queue_depth.labels(model).set_function(depth)
        self.queue_capacity.labels(model).set(capacity)

    @contextmanager
    def model_ready_while(self, served: Bundle, provider: str, is_ready: Callable[[], bool]) -> Iterator[None]:
        """Report the model inside the block, as ready while `is_ready()`."""
        manifest = served.manifest
        info = (manifest.name, manifest.version, manifest.files[MODEL_FILE], provider, manifest.precision)
        self.model_info.labels(*info).set(1)
        ready = self.model_ready.labels(manifest.name, manifest.version)
        ready.set_function(is_ready)
        try:
            yield
        finally:
            ready.set_function(lambda: False)
