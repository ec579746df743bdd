"""Image bytes in, ranked labels out, for one loaded model.

bytes --decode pool: read_input--> one row --batcher: OnnxSession--> (num_classes,) --rank--> [ClassScore]
"""

import asyncio
import logging
from collections.abc import AsyncIterator
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
from service.batcher import DynamicBatcher
from service.decode_pool import DecodePool
from service.errors import ImageTooLarge, InferenceFailed, InvalidImage, ServiceError, UnsupportedMediaType
from service.metrics import Metrics
from service.ranking import rank
from service.schemas import ClassScore
from service.session import OnnxSession
from service.settings import Settings

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
    """One model at work."""

    def __init__(
        self,
        manifest: Manifest,
        provider: str,
        batcher: DynamicBatcher,
        pool: DecodePool,
        metrics: Metrics,
        *,
        max_image_pixels: int,
    ) -> None:
        self.manifest = manifest
        self.provider = provider
        self._batcher = batcher
        self._pool = pool
        self._metrics = metrics
        self._max_image_pixels = max_image_pixels

    @property
    def alive(self) -> bool:
        return self._batcher.alive

    async def predict(self, image_bytes: bytes, *, top_k: int, deadline: float) -> Prediction:
        """Classify one picture; `deadline` is an instant of the event loop's clock.

        Raises:
            InvalidImage, ImageTooLarge, UnsupportedMediaType: the picture's fault; it never enters a batch.
            QueueFull, Draining, DeadlineExceeded, InferenceFailed: as the stages raise them.
        """
        started = perf_counter()
        tensor = await self._decode(image_bytes, deadline)  # one row of manifest.input
        decoded = perf_counter()
        answer = await self._batcher.submit(tensor, deadline=deadline)  # row: (num_classes,)
        if not np.isfinite(answer.row).all():
            raise InferenceFailed
        stages = {
            "decode": decoded - started,
            "queue": answer.queue_seconds,
            "inference": answer.inference_seconds,
        }
        self._metrics.observe_stages(self.manifest.name, stages)
        return Prediction(rank(answer.row, self.manifest.labels, top_k), stages)

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
    session = await asyncio.to_thread(
        OnnxSession, served, provider=settings.provider, intra_op_num_threads=settings.intra_op_num_threads
    )
    await asyncio.to_thread(session.warm_up, settings.max_batch_size)
    log.info("%s version %s is loaded and warmed up on %s", manifest.name, manifest.version, session.provider)

    def run_batch(batch: NDArray[Any]) -> NDArray[np.float32]:
        metrics.batch_size.labels(manifest.name).observe(len(batch))
        return session.run(batch)

    batcher = DynamicBatcher(
        run_batch,
        max_batch_size=settings.max_batch_size,
        max_queue_delay=settings.max_queue_delay_ms / 1000,
        max_queue_size=settings.max_queue_size,
    )
    metrics.watch_queue(manifest.name, lambda: batcher.queue_depth, settings.max_queue_size)
    async with batcher:
        with metrics.model_ready_while(served, session.provider):
            yield Predictor(
                manifest, session.provider, batcher, pool, metrics, max_image_pixels=settings.max_image_pixels
            )
