"""Image bytes in, ranked labels out, for one loaded model; or rows in, logits out.

picture bytes --batcher--> a lane: read_input --> rows --> ModelRunner --> logits --rank--> [ClassScore]
tensors (/v2) --batcher--> a lane: ---------------^                        |
                                                                           +--> as they are (/v2)

Where a GPU computes, the lane is left to it: pictures are decoded before the batcher, in the threads of a `DecodePool`.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

import bundle.errors
from bundle.decoding import sniff_format
from bundle.manifest import AttentionMap, Manifest
from bundle.model_input import read_input
from service.admission import Admission
from service.batcher import DynamicBatcher
from service.deadlines import until
from service.decode_pool import DecodePool
from service.entry import Outputs
from service.errors import ImageTooLarge, InferenceFailed, InvalidImage, ServiceError, UnsupportedMediaType
from service.metrics import Metrics
from service.model_runner import ModelRunner
from service.ranking import rank
from service.schemas import ClassScore
from service.settings import Settings
from service.statistics import Statistics

_REFUSALS: dict[type[bundle.errors.ImageError], type[ServiceError]] = {
    bundle.errors.InvalidImage: InvalidImage,
    bundle.errors.ImageTooLarge: ImageTooLarge,
    bundle.errors.UnsupportedImage: UnsupportedMediaType,
}
Result = TypeVar("Result")
Maps = Mapping[str, NDArray[np.floating]]  # layer --> (heads, queries, keys)


class Inference(NamedTuple):
    """Logits (N, num_classes), all finite, seconds by stage, and the rows of the batch they came from."""

    logits: NDArray[np.float32]
    stages: dict[str, float]
    batch_size: int


class Prediction(NamedTuple):
    """Ranked labels, seconds by stage, and the rows of the batch they came from."""

    predictions: list[ClassScore]
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
        pool: DecodePool,
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

    async def predict(self, image_bytes: bytes, *, top_k: int, deadline: float) -> Prediction:
        """Classify one picture; `deadline` is an instant of the event loop's clock.

        Raises:
            InvalidImage, ImageTooLarge, UnsupportedMediaType: the picture's fault; it never enters a batch.
            QueueFull, Draining, DeadlineExceeded, InferenceFailed: as the stages raise them.
        """
        with self.statistics.failures():
            started = perf_counter()
            logits, stages, batch_size = self._inference([await self._classify(image_bytes, deadline)], started)
            return Prediction(rank(logits[0], self.manifest.labels, top_k), stages, batch_size)

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

    async def infer_pictures(self, pictures: Sequence[bytes], *, deadline: float) -> Inference:
        """Return the logits of several pictures, of all or of none; raises as `predict`, for the first bad one."""
        with self.statistics.failures():
            started = perf_counter()
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._classify(picture, deadline)) for picture in pictures]
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from errors.exceptions[0].__cause__
            return self._inference([task.result() for task in tasks], started)

    async def infer(self, rows: NDArray[Any], *, deadline: float) -> Inference:
        """Return the logits of rows (N, ...) of the manifest's input; raises as `predict` does for a good picture."""
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

        Raises as `predict`.
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
            async with until(deadline), self._looking:
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
            QueueFull, DeadlineExceeded: as `DecodePool.run`.
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
        except bundle.errors.ImageError as error:
            self._count(picture, "refused")
            setting = " (max_image_pixels)" if isinstance(error, bundle.errors.ImageTooLarge) else ""
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
