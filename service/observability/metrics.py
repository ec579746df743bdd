"""Prometheus metrics: names, labels and buckets. docs/reference.md lists them.

One process counts in memory. Workers count in files, one set for each slot, so that a replacement goes on where its
predecessor was killed, and the worker that is scraped adds all of them up.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from math import nan
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.multiprocess import MultiProcessCollector

from aaserve.bundle.bundle import MODEL_FILE
from aaserve.bundle.manifest import Manifest
from aaserve.service.observability.gpu_metrics import GpuMetrics

# Resolve a service that answers in 2 to 50 ms; the client library's own buckets start at 5 ms.
_MILLISECONDS = (0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 50, 75, 100, 150, 250, 500, 1000, 2500, 5000, 10_000)
SECONDS = tuple(milliseconds / 1000 for milliseconds in _MILLISECONDS)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
REFRESH = 1.0  # seconds between two looks at what workers report


class Agreement(Protocol):
    """How a model in a lower precision answers, compared with full precision."""

    @property
    def pictures(self) -> int: ...
    @property
    def same_best_class(self) -> int: ...
    @property
    def max_difference(self) -> float: ...


class Reporting(Protocol):
    """What a version of a model says of itself."""

    manifest: Manifest

    @property
    def provider(self) -> str: ...
    @property
    def on_cpu(self) -> bool: ...
    @property
    def agreement(self) -> Agreement | None: ...
    @property
    def ready(self) -> bool: ...
    @property
    def queue_depth(self) -> int: ...
    @property
    def queue_capacity(self) -> int: ...


class Receiving(Protocol):
    """The bodies of requests."""

    bodies: int
    bytes: int


def worker_restarts(registry: CollectorRegistry | None) -> Counter:
    """The metric that the supervisor of several workers counts and that each of them shows."""
    return Counter(
        "aaserve_worker_restarts_total", "Workers that were killed or hung, and were replaced.", registry=registry
    )


class Metrics:
    """All metrics of one running service, in a registry of their own.

    Args:
        slot: of this worker; None in a process that serves alone.
        gpu_device_id: of the card that is told of, once a model runs on one.
    """

    def __init__(self, slot: int | None = None, gpu_device_id: int = 0) -> None:
        registry = self.registry = CollectorRegistry()
        self._is_worker = slot is not None
        self._reported: dict[Gauge, Callable[[], float]] = {}
        self._versions: dict[str, list[tuple[Gauge, tuple[str, ...]]]] = {}
        self._gpu: GpuMetrics | None = None
        self._gpu_device_id = gpu_device_id
        if self._is_worker:
            # The library names the files by process id; by slot, they neither grow in number nor show as labels.
            values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]
            self.registry = CollectorRegistry()
            MultiProcessCollector(self.registry)  # type: ignore[no-untyped-call]
        counter = partial(Counter, registry=registry)
        histogram = partial(Histogram, registry=registry)
        summed = partial(Gauge, registry=registry, multiprocess_mode="livesum")
        highest = partial(Gauge, registry=registry, multiprocess_mode="livemax")
        lowest = partial(Gauge, registry=registry, multiprocess_mode="livemin")
        self.requests = counter(
            "aaserve_requests_total",
            "Answers, by HTTP status. 499 is a client that disconnected.",
            ["endpoint", "model", "code"],
        )
        self.request_duration = histogram(
            "aaserve_request_duration_seconds",
            "Time from the head of a request to the end of its answer.",
            ["endpoint", "model"],
            buckets=SECONDS,
        )
        self.stage_duration = histogram(
            "aaserve_stage_duration_seconds",
            "Time by stage: receive, decode, queue, inference, render (/explain, and /detect as a PNG), respond.",
            ["stage", "model"],
            buckets=SECONDS,
        )
        self.batch_size = histogram("aaserve_batch_size", "Rows in one model call.", ["model"], buckets=ROWS)
        self.queue_depth = summed("aaserve_queue_depth", "Rows waiting for decoding or for the model.", ["model"])
        self.queue_capacity = summed("aaserve_queue_capacity", "Maximum rows that may wait.", ["model"])
        self.inflight = summed(
            "aaserve_inflight_requests", "Requests being answered, health checks and scrapes excluded."
        )
        self.being_answered = 0
        self._report(self.inflight, lambda: self.being_answered)
        self.receiving = summed("aaserve_receiving_requests", "Requests whose body is being received.")
        self.body_bytes = summed("aaserve_body_bytes", "Bytes of request bodies in memory.")
        self.rejected = counter(
            "aaserve_rejected_total",
            "Requests (of a batch: images) not answered as asked, by error code, or disconnected.",
            ["reason"],
        )
        self.rejected.labels("model_not_found")  # from 0, so that the first one is an increase
        self.images = counter(
            "aaserve_images_total", "Images received, by format and outcome: decoded or refused.", ["format", "outcome"]
        )
        self.model_info = highest(
            "aaserve_model_info",
            "Served models; always 1. precision is that of the bundle, also where cpu_precision bf16 computes in less.",
            ["model", "version", "task", "sha256", "provider", "precision"],
        )
        self.model_ready = lowest(
            "aaserve_model_ready",
            "1 while it answers; 0 for a broken version (empty: broken folder) of a model of which nothing is served.",
            ["model", "version"],
        )
        self.lower_precision_agreement = lowest(
            "aaserve_lower_precision_agreement",
            "With cpu_precision bf16: share of the images compared at load with the best class, or objects, of fp32.",
            ["model", "version"],
        )
        self.lower_precision_difference = highest(
            "aaserve_lower_precision_difference",
            "With cpu_precision bf16: largest difference from fp32 of a logit, as share of the largest, or of a score.",
            ["model", "version"],
        )
        self.models_missing = highest(
            "aaserve_models_missing",
            "Models of the repository, or required, that are not served; unloaded ones only if required or default.",
        )
        self.model_fallback = highest(
            "aaserve_model_fallback",
            "1 while an older version is served because a newer one is broken.",
            ["model"],
        )
        self.reloads = counter(
            "aaserve_reloads_total", "Loads of a model, also at the start: loaded or failed.", ["model", "outcome"]
        )
        self.model_reopened = counter(
            "aaserve_model_reopened_total", "Sessions that died and were opened again.", ["model"]
        )
        self.log_lines_dropped = counter("aaserve_log_lines_dropped_total", "Log lines that could not be written.")
        self.worker_restarts = worker_restarts(registry)

    def watch_model(
        self, name: str, versions: Sequence[Reporting], *, failed: Sequence[str] = (), fallback: bool = False
    ) -> None:
        """Report these versions of a model from now on, and no others; `failed` are those of one that has none."""
        self.model_fallback.labels(name).set(fallback)
        self._report(self.queue_depth.labels(name), lambda: sum(version.queue_depth for version in versions))
        self.queue_capacity.labels(name).set(sum(version.queue_capacity for version in versions))
        for gauge, labels in self._versions.pop(name, []):
            self._forget(gauge, labels)
        reported = self._versions[name] = []
        if self._gpu is None and any(not version.on_cpu for version in versions):
            self._gpu = GpuMetrics(self._gpu_device_id)
            self.registry.register(self._gpu)  # which is what is scraped, beside the files of all workers
        for version in versions:
            manifest = version.manifest
            sha256 = manifest.files[MODEL_FILE]
            info = (name, manifest.version, manifest.task, sha256, version.provider, manifest.precision)
            ready = (name, manifest.version)
            self.model_info.labels(*info).set(1)
            self._report(self.model_ready.labels(*ready), partial(getattr, version, "ready"))
            reported += [(self.model_info, info), (self.model_ready, ready)]
            if agreement := version.agreement:
                self.lower_precision_agreement.labels(*ready).set(agreement.same_best_class / agreement.pictures)
                self.lower_precision_difference.labels(*ready).set(agreement.max_difference)
                reported += [(self.lower_precision_agreement, ready), (self.lower_precision_difference, ready)]
        for failed_version in failed:
            self._report(self.model_ready.labels(name, failed_version), lambda: 0)
            reported.append((self.model_ready, (name, failed_version)))

    def watch_receiving(self, stage: Receiving) -> None:
        """Report the bodies of requests from now on."""
        self._report(self.receiving, lambda: stage.bodies)
        self._report(self.body_bytes, lambda: stage.bytes)

    async def keep_reporting(self) -> None:
        """What another worker reports when it is scraped must be in this one's files: write it again and again."""
        while self._is_worker:
            self.refresh()
            await asyncio.sleep(REFRESH)

    def refresh(self) -> None:
        """Write what is reported now."""
        for gauge, value in list(self._reported.items()):
            gauge.set(value())

    def _report(self, gauge: Gauge, value: Callable[[], float]) -> None:
        if self._is_worker:
            self._reported[gauge] = value
            gauge.set(value())
        else:
            gauge.set_function(value)  # for every reader of the registry: Ray has its own metrics port

    def _forget(self, gauge: Gauge, labels: tuple[str, ...]) -> None:
        if self._is_worker:  # whose files keep what they once had
            series = gauge.labels(*labels)
            self._reported.pop(series, None)
            zero_says_something = (self.model_ready, self.lower_precision_agreement)
            series.set(nan if gauge in zero_says_something else 0)
        else:
            gauge.remove(*labels)
