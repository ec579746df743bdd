"""Prometheus metrics: names, labels and buckets. docs/operations.md lists them for those who scrape.

One process counts in memory. Workers count in files, one set for each slot, so that a replacement goes on where its
predecessor was killed, and whoever is scraped adds all of them up.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.multiprocess import MultiProcessCollector

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
REFRESH = 1.0  # seconds between two looks at what workers report


class Metrics:
    """All metrics of one running service, in a registry of their own.

    Args:
        slot: of this worker; None in a process that serves alone.
    """

    def __init__(self, slot: int | None = None) -> None:
        registry = self.registry = CollectorRegistry()
        self._is_worker = slot is not None
        self._reported: dict[Gauge, Callable[[], float]] = {}
        if self._is_worker:
            # The library names the files by process id; by slot, they neither grow in number nor show as labels.
            values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]
            self.registry = CollectorRegistry()
            MultiProcessCollector(self.registry)  # type: ignore[no-untyped-call]
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
        self.queue_depth = Gauge(
            "aaserve_queue_depth",
            "Rows waiting for the model.",
            ["model"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.queue_capacity = Gauge(
            "aaserve_queue_capacity", "Rows that may wait.", ["model"], registry=registry, multiprocess_mode="livesum"
        )
        self.inflight = Gauge(
            "aaserve_inflight_requests", "Requests being answered.", registry=registry, multiprocess_mode="livesum"
        )
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
            multiprocess_mode="livemax",
        )
        self.model_ready = Gauge(
            "aaserve_model_ready",
            "1 while the model answers.",
            ["model", "version"],
            registry=registry,
            multiprocess_mode="livemin",
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
        self._report(self.queue_depth.labels(model), depth)
        self.queue_capacity.labels(model).set(capacity)

    @contextmanager
    def model_ready_while(self, served: Bundle, provider: str, is_ready: Callable[[], bool]) -> Iterator[None]:
        """Report the model inside the block, as ready while `is_ready()`."""
        manifest = served.manifest
        info = (manifest.name, manifest.version, manifest.files[MODEL_FILE], provider, manifest.precision)
        self.model_info.labels(*info).set(1)
        ready = self.model_ready.labels(manifest.name, manifest.version)
        self._report(ready, is_ready)
        try:
            yield
        finally:
            self._report(ready, lambda: False)

    async def keep_reporting(self) -> None:
        """What another worker reports when it is scraped must be in this one's files: write it again and again."""
        while self._is_worker:
            self.refresh()
            await asyncio.sleep(REFRESH)

    def refresh(self) -> None:
        """Write what is reported now."""
        for gauge, value in self._reported.items():
            gauge.set(value())

    def _report(self, gauge: Gauge, value: Callable[[], float]) -> None:
        if self._is_worker:
            self._reported[gauge] = value
            gauge.set(value())
        else:
            gauge.set_function(value)
