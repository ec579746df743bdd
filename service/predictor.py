"""Image bytes in, ranked labels out, for one loaded model.

bytes --decode pool: read_input--> one row --batcher: ModelRunner--> (num_classes,) --rank--> [ClassScore]
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

import bundle.errors
from bundle.bundle import Bundle
from bundle.decoding import sniff_format
from bundle.manifest import Manifest
from bundle.model_input import read_input
from service.admission import Admission
from service.batcher import DynamicBatcher
from service.decode_pool import DecodePool
from service.errors import ImageTooLarge, InferenceFailed, InvalidImage, ServiceError, UnsupportedMediaType
from service.metrics import Metrics
from service.model_runner import ModelRunner
from service.ranking import rank
from service.schemas import ClassScore
from service.session import OnnxSession
from service.settings import Settings
from service.throughput import Throughput

_REFUSALS: dict[type[bundle.errors.ImageError], type[ServiceError]] = {
    bundle.errors.InvalidImage: InvalidImage,
    bundle.errors.ImageTooLarge: ImageTooLarge,
    bundle.errors.UnsupportedImage: UnsupportedMediaType,
}
log = logging.getLogger("aaserve")


@dataclass(frozen=True, slots=True)
class Prediction:
    """Ranked labels, and seconds by stage."""

    predictions: list[ClassScore]
    stages: dict[str, float]


class Predictor:
    """One model at work; `admission` is the door that its requests come through."""

    def __init__(
        self,
        manifest: Manifest,
        runner: ModelRunner,
        batcher: DynamicBatcher,
        pool: DecodePool,
        admission: Admission,
        metrics: Metrics,
        *,
        max_image_pixels: int,
    ) -> None:
        self.manifest = manifest
        self.admission = admission
        self._runner = runner
        self._batcher = batcher
        self._pool = pool
        self._metrics = metrics
        self._max_image_pixels = max_image_pixels

    @property
    def alive(self) -> bool:
        return self._batcher.alive

    @property
    def provider(self) -> str:
        """The execution provider it runs on, in ONNX Runtime's words."""
        return self._runner.provider

    @property
    def ready(self) -> bool:
        """Whether the model works now; it does not while its session is being opened again."""
        return self.alive and self._runner.ready

    async def ended(self) -> None:
        """Return when the model has been stopped; raise what it died of."""
        await self._batcher.ended()

    async def predict(self, image_bytes: bytes, *, top_k: int, deadline: float) -> Prediction:
        """Classify one picture; `deadline` is an instant of the event loop's clock.

        Raises:
            InvalidImage, ImageTooLarge, UnsupportedMediaType: the picture's fault; it never enters a batch.
            QueueFull, Draining, DeadlineExceeded, InferenceFailed: as the stages raise them.
        """
        started = perf_counter()
        row = await self._decode(image_bytes, deadline)  # one row of manifest.input
        decoded = perf_counter()
        answer = await self._batcher.submit(row[np.newaxis], deadline=deadline)  # rows: (1, num_classes)
        if not np.isfinite(answer.rows).all():
            raise InferenceFailed
        stages = {
            "decode": decoded - started,
            "queue": answer.queue_seconds,
            "inference": answer.inference_seconds,
        }
        self._metrics.observe_stages(self.manifest.name, stages)
        return Prediction(rank(answer.rows[0], self.manifest.labels, top_k), stages)

    async def predict_each(
        self, images: Sequence[bytes | ServiceError], *, top_k: int, deadline: float
    ) -> list[Prediction | ServiceError]:
        """Classify several pictures; each succeeds or fails by itself, and what failed before stays as it is."""

        async def outcome(image: bytes | ServiceError) -> Prediction | ServiceError:
            if isinstance(image, ServiceError):
                return image
            try:
                return await self.predict(image, top_k=top_k, deadline=deadline)
            except ServiceError as error:
                return error

        async with asyncio.TaskGroup() as group:  # a client who leaves takes all of them along
            tasks = [group.create_task(outcome(image)) for image in images]
        return [task.result() for task in tasks]

    async def _decode(self, image_bytes: bytes, deadline: float) -> NDArray[Any]:
        work = partial(read_input, image_bytes, self.manifest, max_pixels=self._max_image_pixels)
        image_format = (sniff_format(image_bytes) or "unknown").lower()
        try:
            row = await self._pool.run(work, deadline=deadline)
        except bundle.errors.ImageError as error:
            self._metrics.images.labels(image_format, "refused").inc()
            raise _REFUSALS[type(error)](str(error)) from error
        self._metrics.images.labels(image_format, "decoded").inc()
        return row


@asynccontextmanager
async def open_predictor(
    served: Bundle, settings: Settings, pool: DecodePool, metrics: Metrics
) -> AsyncIterator[Predictor]:
    """Load and warm up a bundle; on leaving, what is queued is answered first.

    Raises:
        StartFailed: the provider is not to be had, or the model does not work.
    """
    manifest = served.manifest

    def open_session(served: Bundle) -> OnnxSession:
        return OnnxSession(
            served,
            provider=settings.provider,
            intra_op_num_threads=settings.intra_op_num_threads,
            max_batch_size=settings.max_batch_size,
        )

    def run_batch(batch: NDArray[Any]) -> NDArray[np.float32]:
        metrics.batch_size.labels(manifest.name).observe(len(batch))
        return runner.run(batch)

    reopened = metrics.model_reopened.labels(manifest.name)
    runner = await asyncio.to_thread(ModelRunner, served, open_session, reopened.inc)
    log.info("%s version %s is loaded and warmed up on %s", manifest.name, manifest.version, runner.provider)
    throughput = Throughput()
    batcher = DynamicBatcher(
        run_batch,
        max_batch_size=settings.max_batch_size,
        max_queue_delay=settings.max_queue_delay_ms / 1000,
        max_queue_size=settings.max_queue_size,
        recover=runner.recover,
        on_answered=lambda rows: throughput.answered(rows, more_wait=pool.waiting > 0 or batcher.queue_depth > 0),
    )
    admission = Admission(
        max_rows=settings.max_queue_size,
        max_bytes=settings.max_inflight_bytes,
        longest_wait=settings.request_timeout_ms / 1000,
        computing=lambda: batcher.computing,
        throughput=throughput,
    )
    metrics.watch_queue(manifest.name, lambda: batcher.queue_depth, settings.max_queue_size)
    async with batcher:
        predictor = Predictor(
            manifest, runner, batcher, pool, admission, metrics, max_image_pixels=settings.max_image_pixels
        )
        with metrics.model_ready_while(served, runner.provider, lambda: predictor.ready):
            yield predictor
