"""Pictures or rows in, the model's named outputs out, for one loaded model.

picture bytes --batcher--> inference thread: read_sized_input --> rows --> ModelRunner --> outputs
tensors       --batcher--> inference thread: ---------------^

Knows nothing of HTTP, nor of what outputs mean: that is up to `service/tasks`. If a GPU computes, pictures are decoded
before the batcher, in the threads of a `CpuPool`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import aaserve.bundle.errors
from aaserve.bundle.manifest import Manifest
from aaserve.bundle.model_input import read_sized_input
from aaserve.bundle.pictures.decoding import sniff_format
from aaserve.service.engine.batcher import DynamicBatcher
from aaserve.service.engine.cpu_pool import CpuPool
from aaserve.service.engine.queueing.admission import Admission
from aaserve.service.engine.queueing.queued_request import Inference, Outputs, joined
from aaserve.service.engine.runtime.agreement import Agreement
from aaserve.service.engine.runtime.runner import ModelRunner
from aaserve.service.engine.statistics import Statistics
from aaserve.service.errors import (
    DeadlineExceeded,
    ImageTooLarge,
    InferenceFailed,
    InvalidImage,
    ServiceError,
    UnsupportedMediaType,
)
from aaserve.service.observability.metrics import Metrics
from aaserve.service.settings import Settings

_REFUSALS: dict[type[aaserve.bundle.errors.ImageError], type[ServiceError]] = {
    aaserve.bundle.errors.InvalidImage: InvalidImage,
    aaserve.bundle.errors.ImageTooLarge: ImageTooLarge,
    aaserve.bundle.errors.UnsupportedImage: UnsupportedMediaType,
}
Result = TypeVar("Result")


@dataclass(eq=False)
class Predictor:
    """One model at work; its requests hold permits of `admission`."""

    manifest: Manifest
    settings: Settings
    runner: ModelRunner
    batcher: DynamicBatcher
    pool: CpuPool
    admission: Admission
    metrics: Metrics
    statistics: Statistics

    def __post_init__(self) -> None:
        self._large = asyncio.Lock()  # held by what takes much memory
        self._images = lru_cache(maxsize=32)(self.metrics.images.labels)  # looking series up takes longer than counting

    @property
    def queue_depth(self) -> int:
        """Rows waiting for the model."""
        return self.batcher.queue_depth

    @property
    def queue_capacity(self) -> int:
        """Rows that may wait."""
        return self.batcher.max_queue_size

    @property
    def alive(self) -> bool:
        return self.batcher.alive

    @property
    def provider(self) -> str:
        """What the model runs on, by its name in ONNX Runtime; or OpenVINO."""
        return self.runner.provider

    @property
    def on_cpu(self) -> bool:
        return self.runner.on_cpu

    @property
    def agreement(self) -> Agreement | None:
        """How the answers agree with full precision, where the settings ask for less."""
        return self.runner.agreement

    @property
    def ready(self) -> bool:
        """Whether the model works now; it does not while its session is being opened again."""
        return self.batcher.alive and self.runner.ready

    async def infer_picture(self, picture: bytes, *, client: str, deadline: float) -> Inference:
        """Return the task's outputs for one picture.

        Args:
            client: who sent it.
            deadline: an instant of the event loop's clock.

        Raises:
            InvalidImage, ImageTooLarge, UnsupportedMediaType: the picture's fault; it never enters a batch.
            QueueFull, Draining, DeadlineExceeded, InferenceFailed: as the stages raise them.
        """
        return await self._counted(self._of_picture(picture, client, deadline))

    async def infer_each(
        self, pictures: Sequence[bytes | ServiceError], *, client: str, deadline: float
    ) -> list[Inference | ServiceError]:
        """Return the task's outputs for several pictures; each succeeds or fails alone, and errors stay as they are."""

        async def outcome(picture: bytes | ServiceError) -> Inference | ServiceError:
            if isinstance(picture, ServiceError):
                return picture
            try:
                return await self.infer_picture(picture, client=client, deadline=deadline)
            except ServiceError as error:
                return error.without_origin()

        return await _all([outcome(picture) for picture in pictures])  # a client who leaves takes all of them along

    async def infer(self, given: NDArray[Any] | Sequence[bytes], *, client: str, deadline: float) -> Inference:
        """Return the task's outputs for rows (N, ...) of the manifest's input, or for pictures, all together.

        Raises as `infer_picture`, for the first bad one.
        """
        if isinstance(given, np.ndarray):
            return await self._counted(self._compute(given, client, deadline))
        return await self._counted(self._of_pictures(given, client, deadline))

    async def infer_outputs(
        self,
        given: NDArray[Any] | Sequence[bytes],
        names: tuple[str, ...],
        use: Callable[[NDArray[Any], Outputs], Result],
        *,
        client: str,
        deadline: float,
    ) -> tuple[Inference, Result]:
        """Return any named outputs for rows or pictures, and what `use` makes of both in a decode thread.

        Attention maps are large, and requests for them share no batch with others: one such request at a time.

        Raises as `infer`.
        """
        made: list[Result] = []

        async def answer() -> Inference:
            started = perf_counter()
            rows = given if isinstance(given, np.ndarray) else np.stack([await decoded(each) for each in given])
            ready = perf_counter()
            async with self._alone(deadline):
                found = await self._compute(rows, client, deadline, names)
                computed = perf_counter()
                made.append(await self.offload(partial(use, rows, found.outputs), client=client, deadline=deadline))
            inference = found.stages["inference"]
            queued = max(0.0, computed - ready - inference)
            stages = {"decode": ready - started, "queue": queued, "inference": inference}
            return found._replace(stages={**stages, "render": perf_counter() - computed})

        async def decoded(picture: bytes) -> NDArray[Any]:
            return await self.offload(partial(self._decode, picture), client=client, deadline=deadline)

        return await self._counted(answer()), made[0]

    async def render(self, work: Callable[[], Result], *, client: str, deadline: float) -> Result:
        """Return `work()` as `offload` does, for work that takes much memory: of this model, one at a time.

        Raises:
            DeadlineExceeded: as `CpuPool.run`.
        """
        async with self._alone(deadline):
            return await self.offload(work, client=client, deadline=deadline)

    async def offload(self, work: Callable[[], Result], *, client: str, deadline: float) -> Result:
        """Return `work()`, done in a decode thread; for what would hold up the event loop.

        Raises:
            DeadlineExceeded: as `CpuPool.run`.
        """
        return await self.pool.run(work, client=client, deadline=deadline)

    @asynccontextmanager
    async def _alone(self, deadline: float) -> AsyncIterator[None]:
        """Run the block while no other one of this model does."""
        try:
            async with asyncio.timeout_at(deadline), self._large:
                yield
        except TimeoutError:
            raise DeadlineExceeded from None

    async def _counted(self, answer: Awaitable[Inference]) -> Inference:
        """Await what a request gets, and count it."""
        started = perf_counter()
        try:
            inference = await answer
        except ServiceError:
            self.statistics.fail.add(perf_counter() - started)
            raise
        self.statistics.answered(inference, perf_counter() - started)
        return inference

    async def _compute(
        self, rows: NDArray[Any] | Callable[[], NDArray[Any]], client: str, deadline: float, names: tuple[str, ...] = ()
    ) -> Inference:
        inference = await self.batcher.submit(rows, names=names, client=client, deadline=deadline)
        if not all(np.isfinite(values).all() for values in inference.outputs.values()):
            raise InferenceFailed
        return inference

    async def _of_picture(self, picture: bytes, client: str, deadline: float) -> Inference:
        sizes: list[tuple[int, int]] | None = [] if self.manifest.has_boxes else None
        decode = partial(self._decode, picture, sizes)
        if self.runner.decodes_in_lanes:
            inference = await self._compute(decode, client, deadline)
        else:
            started = perf_counter()
            row = await self.pool.run(decode, client=client, deadline=deadline)
            seconds = perf_counter() - started
            inference = await self._compute(row[np.newaxis], client, deadline)
            inference = inference._replace(stages=inference.stages | {"decode": seconds})
        return inference if sizes is None else inference._replace(sizes=tuple(sizes))

    async def _of_pictures(self, pictures: Sequence[bytes], client: str, deadline: float) -> Inference:
        found = await _all([self._of_picture(picture, client, deadline) for picture in pictures])
        slowest = max(found, key=lambda inference: sum(inference.stages.values()))
        outputs = joined([inference.outputs for inference in found])
        sizes = tuple(size for inference in found for size in inference.sizes)
        return Inference(outputs, slowest.stages, max(inference.batch_size for inference in found), sizes)

    def _decode(self, picture: bytes, sizes: list[tuple[int, int]] | None = None) -> NDArray[Any]:
        """Return a row of the manifest's input. Runs in a thread that decodes.

        Args:
            sizes: gets (width, height) of the upright picture.
        """
        try:
            row, size = read_sized_input(picture, self.manifest, max_pixels=self.settings.max_image_pixels)
        except aaserve.bundle.errors.ImageError as error:
            self._count(picture, "refused")
            setting = " (max_image_pixels)" if isinstance(error, aaserve.bundle.errors.ImageTooLarge) else ""
            raise _REFUSALS[type(error)](f"{error}{setting}") from error
        self._count(picture, "decoded")
        if sizes is not None:
            sizes.append(size)
        return row

    def _count(self, picture: bytes, outcome: str) -> None:
        self._images((sniff_format(picture) or "unknown").lower(), outcome).inc()


async def _all(works: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Return the results of all, in their order; the first error cancels the others.

    A TaskGroup of Python 3.11 leaves its errors in a cycle with its own frame, and so all that its tasks have read in
    memory until the garbage collector comes by.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        tasks.clear()  # an error that is raised here must not lead back to itself
