"""Our metrics under Triton's names (`--metrics-compat triton`), so that existing boards and autoscalers go on working.

    aaserve_batch_size_count --> nv_inference_exec_count{model,version}, …

Read from our own metrics at the scrape: there is one source, and the two can never disagree. Triton declares counters
without `_total`; the client library cannot, so these are declared untyped, which no query notices.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from aaserve.service.observability.metrics import Metrics

_INFERENCE = re.compile(r"^/(classify|detect)|/infer$|^/predictions/")  # endpoints that ask a model
_MICROSECONDS = 1e6

Labels = Mapping[str, str]


class TritonNames(Collector):
    """Collects `nv_inference_*` from `metrics`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        ours = self._metrics
        versions = _versions(ours)
        succeeded = _sums(ours.requests, "_total", where=lambda labels: labels["code"].startswith("2"))
        failed = _sums(ours.requests, "_total", where=lambda labels: not labels["code"].startswith("2"))
        rows, calls = _sums(ours.batch_size, "_sum"), _sums(ours.batch_size, "_count")
        whole = _sums(ours.request_duration, "_sum", _MICROSECONDS)
        queue = _sums(ours.stage_duration, "_sum", _MICROSECONDS, lambda labels: labels["stage"] == "queue")
        inference = _sums(ours.stage_duration, "_sum", _MICROSECONDS, lambda labels: labels["stage"] == "inference")
        waiting = _sums(ours.queue_depth, "")
        for name, documentation, values in (
            ("request_success", "Requests answered.", succeeded),
            ("request_failure", "Requests that failed, whosever fault it was.", failed),
            ("count", "Pictures answered, each row of a batch counted.", rows),
            ("exec_count", "Model calls.", calls),
            ("request_duration_us", "Microseconds from head to answer, all requests together.", whole),
            ("queue_duration_us", "Microseconds waited for the model, all requests together.", queue),
            ("compute_infer_duration_us", "Microseconds in the model, all requests together.", inference),
            ("pending_request_count", "Rows waiting for the model now.", waiting),
        ):
            metric = Metric(
                f"nv_inference_{name}", documentation, "gauge" if name == "pending_request_count" else "untyped"
            )
            for model, version in versions.items():
                metric.add_sample(metric.name, {"model": model, "version": version}, values.get(model, 0.0))
            yield metric


def _versions(metrics: Metrics) -> dict[str, str]:
    """The version of each model that is served; of several the highest."""
    found: dict[str, str] = {}
    for labels, _ in _samples(metrics.model_info, ""):
        name, version = labels["model"], labels["version"]
        found[name] = max(version, found.get(name, "0"), key=int)
    return found


def _sums(
    metric: MetricWrapperBase, suffix: str, scale: float = 1, where: Callable[[Labels], bool] = lambda labels: True
) -> Mapping[str, float]:
    """By model, of the endpoints that ask one."""
    sums: dict[str, float] = defaultdict(float)
    for labels, value in _samples(metric, suffix):
        if _INFERENCE.search(labels.get("endpoint", "/classify")) and where(labels):
            sums[labels["model"]] += value * scale
    return sums


def _samples(metric: MetricWrapperBase, suffix: str) -> Iterable[tuple[Labels, float]]:
    for family in metric.collect():
        for sample in family.samples:
            if sample.name == family.name + suffix:
                yield sample.labels, sample.value
