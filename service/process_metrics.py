"""Process and Python, beside our own metrics: CPU seconds, memory, open files, garbage collections, versions.

A handful of series with the client library's own names, which dashboards know. Of a GPU: gpu_metrics.py.
"""

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)


def watch_process(registry: CollectorRegistry) -> None:
    """Add the collectors; each reads at the scrape and costs nothing between."""
    # Else one more series for each counter and histogram, which Prometheus 2 cannot use.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
