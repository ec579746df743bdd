"""From a bundle on disk to a predictor at work, and back: what it is made of is put together and taken apart here.

bundle --ModelRunner: load, warm up--> lanes --DynamicBatcher, Admission--> Predictor ... queue answered --> closed
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import prod
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aaserve.bundle.bundle import Bundle
from aaserve.bundle.manifest import Manifest
from aaserve.service.engine.batcher import DynamicBatcher
from aaserve.service.engine.cpu_pool import CpuPool
from aaserve.service.engine.inference_threads import InferenceThreads
from aaserve.service.engine.predictor import Predictor
from aaserve.service.engine.queueing.admission import Admission
from aaserve.service.engine.queueing.queued_request import Outputs
from aaserve.service.engine.queueing.throughput import Throughput
from aaserve.service.engine.runtime.model_session import ModelSession
from aaserve.service.engine.runtime.openvino_session import OpenVinoSession
from aaserve.service.engine.runtime.runner import ModelRunner
from aaserve.service.engine.runtime.session import OnnxSession
from aaserve.service.engine.statistics import Statistics
from aaserve.service.errors import ModelHung, ModelLost
from aaserve.service.observability.metrics import Metrics
from aaserve.service.settings import Settings

if TYPE_CHECKING:
    from aaserve.service.observability.tracing import Tracing

log = logging.getLogger("aaserve")


@asynccontextmanager
async def open_predictor(
    served: Bundle,
    settings: Settings,
    pool: CpuPool,
    metrics: Metrics,
    tracing: "Tracing | None",
    on_lost: Callable[[Exception], None],
) -> AsyncIterator[Predictor]:
    """Load and warm up a bundle; on leaving, what is queued is answered first.

    Args:
        on_lost: called if the model stops working for good.

    Raises:
        StartFailed: the provider is not to be had, or the model does not work.
    """
    manifest = served.manifest
    if manifest.max_batch_size is not None:  # of its graph
        rows = min(settings.max_batch_size, manifest.max_batch_size)
        settings = settings.model_copy(update={"max_batch_size": rows})

    def open_session(served: Bundle, threads: int) -> ModelSession:
        kind = OpenVinoSession if settings.provider == "openvino" else OnnxSession
        return kind(served, settings, threads=threads)

    def run(batch: NDArray[Any], names: tuple[str, ...], all_cores: bool) -> Outputs:
        batch_size.observe(len(batch))
        started = perf_counter()
        outputs = runner.run(batch, names, all_cores)
        statistics.executed(len(batch), perf_counter() - started)
        return outputs

    batch_size = metrics.batch_size.labels(manifest.name)
    reopened = metrics.model_reopened.labels(manifest.name)
    runner = await asyncio.to_thread(ModelRunner, served, open_session, settings, reopened.inc)
    log.info("%s version %s is loaded and warmed up on %s", manifest.name, manifest.version, runner.provider)
    if agreement := runner.agreement:
        log.info(
            "%s: %s has the %s of fp32 for %d of %d pictures (%s); %s differ by at most %.1e",
            manifest.name,
            agreement.precision,
            "objects" if manifest.has_boxes else "best class",
            agreement.same_best_class,
            agreement.pictures,
            "the probe and those in the bundle" if agreement.pictures > 1 else "the probe, as the bundle has none",
            "scores" if manifest.has_boxes else "logits",
            agreement.max_difference,
        )

    queue_size = _queue_size(manifest, settings)
    statistics = Statistics()
    throughput, slow_throughput = Throughput(), Throughput()

    def answered(rows: int, slow: bool) -> None:
        if slow:
            slow_throughput.answered(rows, more_wait=admission.slow_rows > rows)
        else:
            decoding = not runner.decodes_in_lanes and pool.waiting > 0
            throughput.answered(rows, more_wait=decoding or batcher.queue_depth > batcher.slow_waiting)

    batcher = DynamicBatcher(
        run,
        few_rows=runner.speedup if runner.speedup > 1 else 0,
        lanes=InferenceThreads(runner.lanes),
        max_batch_size=runner.max_rows,
        max_queue_delay=settings.max_queue_delay_ms / 1000,
        max_queue_size=queue_size,
        recover=runner.recover,
        usage=pool.usage,
        on_lost=on_lost,
        on_answered=answered,
        tracing=tracing.of_model(manifest) if tracing else None,
    )
    admission = Admission(
        max_rows=queue_size,
        longest_wait=settings.request_timeout_ms / 1000,
        computing=batcher.computing,
        usage=pool.usage,
        throughput=throughput,
        slow_throughput=slow_throughput,
    )

    async def abandon_when_hung() -> None:
        try:
            await runner.watchdog.overdue()
        except Exception as error:  # a bug; without the watchdog a call that hangs would never be noticed
            batcher.abandon(ModelLost(f"{manifest.name}: the watchdog ended unexpectedly: {error!r}"))
        else:
            batcher.abandon(
                ModelHung(f"{manifest.name}: a model call took more than {settings.model_call_timeout_ms / 1000:g} s")
            )

    watching = asyncio.create_task(abandon_when_hung())
    try:
        async with batcher:
            yield Predictor(manifest, settings, runner, batcher, pool, admission, metrics, statistics)
    finally:
        watching.cancel()
        runner.close()


def _queue_size(manifest: Manifest, settings: Settings) -> int:
    """Rows that may wait: where a GPU computes, they wait decoded, and those of a large input take much memory."""
    row_bytes = prod(manifest.input.shape) * np.dtype(manifest.input.dtype).itemsize
    fitting = max(1, settings.max_queue_bytes // row_bytes)
    if fitting < settings.max_queue_size:
        log.info("%s: %d rows may wait, as each takes %d bytes (max_queue_bytes)", manifest.name, fitting, row_bytes)
    return min(fitting, settings.max_queue_size)
