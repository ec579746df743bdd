"""What one model has done since it was loaded: counts and seconds. Knows nothing of HTTP or of Prometheus.

Requests are counted where they enter the model's queue, for all addresses together. What is refused before that
has cost the model nothing and is counted by `aaserve_rejected_total` alone.
"""

import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field

from aaserve.service.engine.queueing.queued_request import Inference


@dataclass(slots=True)
class Duration:
    """How often, and how long in all."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds


@dataclass(slots=True)
class Statistics:
    """Of requests and their stages, and of model calls by their number of rows."""

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    inference_count: int = 0  # rows answered
    execution_count: int = 0  # model calls
    last_inference_ms: int = 0  # since 1970
    executions: dict[int, Duration] = field(default_factory=lambda: defaultdict(Duration))  # by rows
    _executing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def executed(self, rows: int, seconds: float) -> None:
        """Count a model call; called in any of the model's threads."""
        with self._executing:
            self.execution_count += 1
            self.executions[rows].add(seconds)

    def answered(self, inference: Inference, total: float) -> None:
        """Count a request that was answered, in so many seconds; one whose caller leaves counts as neither."""
        stages = inference.stages
        known = stages["decode"] + stages["queue"] + stages["inference"]
        self.inference_count += inference.rows
        self.last_inference_ms = time.time_ns() // 1_000_000
        self.success.add(total)
        self.queue.add(stages["queue"])
        self.compute_input.add(stages["decode"])
        self.compute_infer.add(stages["inference"])
        self.compute_output.add(max(0.0, total - known))
