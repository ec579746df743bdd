"""Prometheus metrics: names, labels and buckets. docs/operations.md lists them for those who scrape."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bundle.bundle import MODEL_FILE, Bundle

# Resolve a service that answers in 2 to 50 ms; the client library's own buckets start at 5 ms.
SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """All metrics of one running service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def of(kind, name, help, labels=(), **options):  # type: ignore[no-untyped-def]
            return kind(f"aaserve_{name}", help, labels, registry=self.registry, **options)

        self.requests: Counter = of(Counter, "requests_total", "HTTP requests answered.", ("endpoint", "model", "code"))
        self.request_duration: Histogram = of(
            Histogram,
            "request_duration_seconds",
            "From the request's head to the end of its answer.",
            ("endpoint", "model"),
            buckets=SECONDS,
        )
        self.stage_duration: Histogram = of(
            Histogram, "stage_duration_seconds", "Where the time went.", ("stage", "model"), buckets=SECONDS
        )
        self.batch_size: Histogram = of(Histogram, "batch_size", "Rows in one model call.", ("model",), buckets=ROWS)
        self.queue_depth: Gauge = of(Gauge, "queue_depth", "Rows waiting for the model.", ("model",))
        self.queue_capacity: Gauge = of(Gauge, "queue_capacity", "Rows that may wait.", ("model",))
        self.inflight: Gauge = of(Gauge, "inflight_requests", "Requests being answered.")
        self.rejected: Counter = of(Counter, "rejected_total", "Requests turned away.", ("reason",))
        self.images: Counter = of(Counter, "images_total", "Images received.", ("format", "outcome"))
        self.model_info: Gauge = of(
            Gauge, "model_info", "What is served; always 1.", ("model", "version", "sha256", "provider", "precision")
        )
        self.model_ready: Gauge = of(Gauge, "model_ready", "1 while the model answers.", ("model", "version"))

    def observe_stages(self, model: str, stages: dict[str, float]) -> None:
        """Record seconds by stage."""
        for stage, seconds in stages.items():
            self.stage_duration.labels(stage, model).observe(seconds)

    def watch_queue(self, model: str, depth: Callable[[], int], capacity: int) -> None:
        """Report `depth()` at each scrape."""
        self.queue_depth.labels(model).set_function(depth)
        self.queue_capacity.labels(model).set(capacity)

    @contextmanager
    def model_ready_while(self, served: Bundle, provider: str) -> Iterator[None]:
        """Report the model as ready inside the block."""
        manifest = served.manifest
        info = (manifest.name, manifest.version, manifest.files[MODEL_FILE], provider, manifest.precision)
        self.model_info.labels(*info).set(1)
        ready = self.model_ready.labels(manifest.name, manifest.version)
        ready.set(1)
        try:
            yield
        finally:
            ready.set(0)
