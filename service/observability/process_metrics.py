"""Process and Python, beside our own metrics: CPU seconds, memory, open files, garbage collections, versions.

A handful of series with the client library's own names, which dashboards know. Several workers are added up, together
with their supervisor. Of a GPU: gpu_metrics.py.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Metric,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.registry import Collector

START_TIME = "process_start_time_seconds"
CPU_SECONDS = "process_cpu_seconds"
_DIGITS = 6  # of a second; the kernel counts hundredths
ATTEMPTS = 10  # to read all processes without one of them ending meanwhile


def watch_process(registry: CollectorRegistry) -> None:
    """Add the collectors; each reads at the scrape and costs nothing between."""
    # Else one more series for each counter and histogram, which Prometheus 2 cannot use.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)


def watch_workers(registry: CollectorRegistry, supervisor: int) -> None:
    """As `watch_process`, for a supervisor and all its workers; garbage collections are not shared between them."""
    registry.register(WorkersCollector(supervisor))
    PlatformCollector(registry=registry)


class WorkersCollector(Collector):
    """The sums of `process_*` over a supervisor and its workers; the start time is the supervisor's.

    The kernel adds the CPU seconds of a worker that has ended to those of its parent's children, so a replaced worker
    never makes the sum smaller.

    Args:
        supervisor: its process id.
    """

    def __init__(self, supervisor: int) -> None:
        self._supervisor = supervisor
        self._folder = Path("/proc") / str(supervisor)

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering reads no process."""
        return []

    def collect(self) -> Iterable[Metric]:
        for _ in range(ATTEMPTS):
            try:
                workers = self._workers()
                metrics = self._sums(workers)
                if self._workers() == workers:  # else one has ended or begun, and may be counted twice or not at all
                    return metrics
            except (OSError, KeyError):  # a process ended while it was read, or there is no /proc
                continue
        return []

    def _workers(self) -> list[str]:
        return (self._folder / "task" / str(self._supervisor) / "children").read_text().split()

    def _sums(self, workers: list[str]) -> Iterable[Metric]:
        sums = {metric.name: metric for metric in _metrics_of(str(self._supervisor))}
        _add(sums[CPU_SECONDS], self._cpu_seconds_of_ended_workers())
        for worker in workers:
            for metric in _metrics_of(worker):
                if metric.name != START_TIME:
                    _add(sums[metric.name], metric.samples[0].value)
        return sums.values()

    def _cpu_seconds_of_ended_workers(self) -> float:
        fields = (self._folder / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")  # cutime and cstime of proc(5)


def _metrics_of(process: str) -> Iterable[Metric]:
    return ProcessCollector(pid=lambda: process, registry=None).collect()


def _add(metric: Metric, value: float) -> None:
    """Add to a sum, exactly: the same seconds in another order must not look like a counter that went back.

    Prometheus would take that for a restart, and show all seconds so far as spent in one interval.
    """
    [sample] = metric.samples
    metric.samples = [sample._replace(value=round(sample.value + value, _DIGITS))]
