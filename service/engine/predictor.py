"""Pictures or rows in, logits out, for one loaded model.

picture bytes --batcher--> inference thread: read_input --> rows --> ModelRunner --> logits
tensors       --batcher--> inference thread: ---------------^

Knows nothing of HTTP, nor of what logits mean. If a GPU computes, pictures are decoded before the batcher, in the
threads of a `CpuPool`.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

import aaserve.bundle.errors
from aaserve.bundle.decoding import sniff_format
from aaserve.bundle.manifest import AttentionMap, Manifest
from aaserve.bundle.model_input import read_input
from aaserve.service.engine.admission import Admission
from aaserve.service.engine.batcher import DynamicBatcher
from aaserve.service.engine.cpu_pool import CpuPool
from aaserve.service.engine.deadline import within_deadline
from aaserve.service.engine.queued_request import Outputs
from aaserve.service.engine.runner import ModelRunner
from aaserve.service.engine.statistics import Statistics
from aaserve.service.errors import ImageTooLarge, InferenceFailed, InvalidImage, ServiceError, UnsupportedMediaType
from aaserve.service.observability.metrics import Metrics
from aaserve.service.settings import Settings

_REFUSALS: dict[type[aaserve.bundle.errors.ImageError], type[ServiceError]] = {
    aaserve.bundle.errors.InvalidImage: InvalidImage,
    aaserve.bundle.errors.ImageTooLarge: ImageTooLarge,
    aaserve.bundle.errors.UnsupportedImage: UnsupportedMediaType,
}
Result = TypeVar("Result")
Maps = Mapping[str, NDArray[np.floating]]  # layer --> (heads, queries, keys)


class Inference(NamedTuple):
    """Logits (N, num_classes), all finite, seconds by stage, and the rows of the batch they came from."""

    logits: NDArray[np.float32]
    stages: dict[str, float]
    batch_size: int


class Predictor:
    """One model at work; its requests hold permits of `admission`."""

    def __init__(
        self,
        manifest: Manifest,
        settings: Settings,
        runner: ModelRunner,
        batcher: DynamicBatcher,
        pool: CpuPool,
        admission: Admission,
        metrics: Metrics,
        statistics: Statistics,
    ) -> None:
        self.manifest = manifest
        self.settings = settings
        self.admission = admission
        self.statistics = statistics
        self._runner = runner
        self._batcher = batcher
        self._pool = pool
        self._metrics = metrics
        self._looking = asyncio.Lock()
        self._images = lru_cache(maxsize=32)(metrics.images.labels)  # looking series up takes longer than counting

    @property
    def queue_depth(self) -> int:
        """Rows waiting for the model."""
        return self._batcher.queue_depth

    @property
    def queue_capacity(self) -> int:
        """Rows that may wait."""
        return self._batcher.max_queue_size

    @property
    def max_batch_size(self) -> int:
        """Rows in one model call, at most."""
        return self._runner.max_rows

    @property
    def alive(self) -> bool:
        return self._batcher.alive

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of what the model runs on."""
        return self._runner.provider

    @property
    def ready(self) -> bool:
        """Whether the model works now; it does not while its session is being opened again."""
        return self.alive and self._runner.ready

    async def ended(self) -> None:
        """Return when the model has been stopped; raise what it died of."""
        await self._batcher.ended()

    async def infer_picture(self, image_bytes: bytes, *, deadline: float) -> Inference:
        """Return the logits (1, num_classes) of one picture; `deadline` is an instant of the event loop's clock.

        Raises:
            InvalidImage, ImageTooLarge, UnsupportedMediaType: the picture's fault; it never enters a batch.
            QueueFull, Draining, DeadlineExceeded, InferenceFailed: as the stages raise them.
        """
        with self.statistics.failures():
            started = perf_counter()
            return self._inference([await self._classify(image_bytes, deadline)], started)

    async def infer_each(
        self, images: Sequence[bytes | ServiceError], *, deadline: float
    ) -> list[Inference | ServiceError]:
        """Return the logits of several pictures; each succeeds or fails alone, and earlier errors stay as they are."""

        async def outcome(image: bytes | ServiceError) -> Inference | ServiceError:
            if isinstance(image, ServiceError):
                return image
            try:
                return await self.infer_picture(image, deadline=deadline)
            except ServiceError as error:
                return error

        async with asyncio.TaskGroup() as group:  # a client who leaves takes all of them along
            tasks = [group.create_task(outcome(image)) for image in images]
        return [task.result() for task in tasks]

    async def infer_pictures(self, pictures: Sequence[bytes], *, deadline: float) -> Inference:
        """Return the logits of all pictures; raises as `infer_picture`, for the first bad one."""
        with self.statistics.failures():
            started = perf_counter()
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._classify(picture, deadline)) for picture in pictures]
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from errors.exceptions[0].__cause__
            return self._inference([task.result() for task in tasks], started)

    async def infer(self, rows: NDArray[Any], *, deadline: float) -> Inference:
        """Return the logits of rows (N, ...) of the manifest's input; raises as `infer_picture` for a good picture."""
        with self.statistics.failures():
            started = perf_counter()
            return self._inference([await self._batcher.submit(rows, deadline=deadline)], started)

    async def explain(
        self,
        image_bytes: bytes,
        layers: Sequence[AttentionMap],
        show: Callable[[NDArray[Any], Maps], bytes],
        *,
        deadline: float,
    ) -> tuple[bytes, dict[str, float]]:
        """Let `show` make an answer of one picture's input row and attention maps; return it and seconds by stage.

        Raises as `infer_picture`.
        """

        def look() -> tuple[Maps, float, float]:
            self._metrics.batch_size.labels(self.manifest.name).observe(1)
            started = perf_counter()
            maps = self._runner.attention(row, layers)
            seconds = perf_counter() - started
            self.statistics.executed(1, seconds)
            return maps, started, seconds

        with self.statistics.failures():
            started = perf_counter()
            row = await self._pool.run(partial(self._decode, image_bytes), deadline=deadline)
            decoded = perf_counter()
            # Maps may be large, and batches should find company between two of these calls: one at a time.
            async with within_deadline(deadline), self._looking:
                maps, called, inference = await self._batcher.call(look, deadline=deadline)
                if not all(np.isfinite(found).all() for found in maps.values()):
                    raise InferenceFailed
                rendering = perf_counter()
                shown = await self._pool.run(partial(show, row, maps), deadline=deadline)
            stages = {"decode": decoded - started, "queue": called - decoded, "inference": inference}
            now = perf_counter()
            self.statistics.answered(1, **stages, total=now - started)
            return shown, {**stages, "render": now - rendering}

    async def offload(self, work: Callable[[], Result], *, deadline: float) -> Result:
        """Return `work()`, done in a decode thread; for what would hold up the event loop.

        Raises:
            QueueFull, DeadlineExceeded: as `CpuPool.run`.
        """
        return await self._pool.run(work, deadline=deadline)

    async def _classify(self, picture: bytes, deadline: float) -> Outputs:
        """Return the model's answer to one picture."""
        decode = partial(self._decode, picture)
        if self._runner.decodes_in_lanes:
            return await self._batcher.submit_later(decode, deadline=deadline)
        started = perf_counter()
        row = await self._pool.run(decode, deadline=deadline)
        seconds = perf_counter() - started
        answer = await self._batcher.submit(row[np.newaxis], deadline=deadline)
        return answer._replace(decode_seconds=seconds)

    def _decode(self, picture: bytes) -> NDArray[Any]:
        """Return a row of the manifest's input; in whichever thread decodes."""
        try:
            row = read_input(picture, self.manifest, max_pixels=self.settings.max_image_pixels)
        except aaserve.bundle.errors.ImageError as error:
            self._count(picture, "refused")
            setting = " (max_image_pixels)" if isinstance(error, aaserve.bundle.errors.ImageTooLarge) else ""
            raise _REFUSALS[type(error)](f"{error}{setting}") from error
        self._count(picture, "decoded")
        return row

    def _count(self, picture: bytes, outcome: str) -> None:
        self._images((sniff_format(picture) or "unknown").lower(), outcome).inc()

    def _inference(self, answers: Sequence[Outputs], started: float) -> Inference:
        """Join what one request has asked; `started` is when the work on it began."""
        [first, *others] = answers
        logits = np.concatenate([answer.rows for answer in answers]) if others else first.rows
        if not np.logical_and.reduce(np.isfinite(logits), axis=None):
            raise InferenceFailed
        last = max(answers, key=_seconds) if others else first
        stages = {
            "decode": last.decode_seconds,
            "queue": last.queue_seconds,
            "inference": last.inference_seconds,
        }
        self.statistics.answered(len(logits), **stages, total=perf_counter() - started)
        return Inference(logits, stages, max([answer.batch_size for answer in answers]))


def _seconds(answer: Outputs) -> float:
    return answer.decode_seconds + answer.queue_seconds + answer.inference_seconds
