"""Files --> answers, by the repository, the predictor and the batcher of the service, without HTTP.

paths --read--> Predictor.infer_picture, several at once --> answers, in the order of the paths

What waits is bounded, so that memory stays flat however many paths there are.
"""

import asyncio
import logging
import math
import os
import stat
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager, closing
from dataclasses import dataclass

from aaserve.bundle.bundle import scan_repository
from aaserve.bundle.manifest import Manifest
from aaserve.service.engine.cpu_pool import CpuPool
from aaserve.service.engine.predictor import Predictor
from aaserve.service.engine.queueing.client_usage import ClientUsage
from aaserve.service.errors import BodyTooLarge, InferenceFailed, LoadFailed, ModelLost, ServiceError
from aaserve.service.observability.metrics import Metrics
from aaserve.service.repository.default_model import only_model
from aaserve.service.repository.loader import VersionLoader
from aaserve.service.repository.repository import ModelRepository
from aaserve.service.repository.trials import Trials
from aaserve.service.settings import Settings
from aaserve.service.tasks.classification import ClassScore, labels_wanted, rank

_KEPT = 1000  # answers that may wait for one before them, such as that of a very large picture
log = logging.getLogger("aaserve")


class UnreadableFile(ServiceError):
    """No picture at all; HTTP has no such case."""

    status = 400
    code = "unreadable_file"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one file: the ranked labels, or an error."""

    path: str
    outcome: list[ClassScore] | ServiceError


class OfflineClassifier:
    """A model at work, for files.

    Args:
        predictor: of the model.
        top_k: labels of each answer.
        lost: gets what the model died of.
    """

    def __init__(self, predictor: Predictor, top_k: int, lost: Sequence[Exception]) -> None:
        self.manifest: Manifest = predictor.manifest
        self.top_k = top_k
        self.max_bytes = predictor.settings.max_body_bytes  # of a file
        self._predictor = predictor
        self._lost = lost
        runner, settings = predictor.runner, predictor.settings
        # Every thread has a batch, one more is prepared, and as many are on their way.
        rows = 2 * (runner.lanes + 1) * runner.max_rows
        decoding = 0 if runner.decodes_in_lanes else 2 * settings.decode_threads
        self.in_flight = min(rows + decoding, predictor.queue_capacity)

    async def answers(self, paths: Iterable[str]) -> AsyncGenerator[Answer, None]:
        """Answer files, in their order.

        Raises:
            ModelLost: the model died and could not be opened again.
        """
        free = asyncio.Semaphore(self.in_flight)
        window: deque[asyncio.Task[Answer]] = deque()

        async def answer(path: str) -> Answer:
            try:
                return await self._answer(path)
            finally:
                free.release()

        try:
            for path in paths:
                await free.acquire()
                window.append(asyncio.create_task(answer(path)))
                while window and (window[0].done() or len(window) >= _KEPT):
                    yield await window.popleft()
            while window:
                yield await window.popleft()
        finally:
            for task in window:
                task.cancel()
            await asyncio.gather(*window, return_exceptions=True)

    async def classify(self, picture: bytes) -> list[ClassScore] | ServiceError:
        """Return the ranked labels of an encoded picture as `POST /classify` would, or the error.

        Raises:
            ModelLost: as `answers`.
        """
        if len(picture) > self.max_bytes:
            return _too_large(self.max_bytes)
        try:
            inference = await self._predictor.infer_picture(picture, client="", deadline=math.inf)
        except ServiceError as error:
            lost = [error.__cause__] if isinstance(error.__cause__, ModelLost) else self._lost
            if lost:
                raise lost[0] from None
            if isinstance(error, InferenceFailed):
                log.error("the model failed on a picture", exc_info=error)
                return InferenceFailed("the model failed on this picture; the log says why")
            return error.without_origin()
        return rank(inference.row(0), self.manifest, self.top_k)

    async def _answer(self, path: str) -> Answer:
        try:
            picture = await asyncio.to_thread(_read, path, self.max_bytes)
        except ServiceError as error:
            return Answer(path, error.without_origin())
        return Answer(path, await self.classify(picture))


@asynccontextmanager
async def open_classifier(
    settings: Settings, *, model: str | None = None, version: str | None = None, top_k: int | None = None
) -> AsyncIterator[OfflineClassifier]:
    """Open one model of the settings' repository: by name, or the default model; by version, or the highest.

    Raises:
        BundleError, LoadFailed, ModelNotFound, ProviderMissing, StartFailed: it cannot be opened.
        InvalidParameter: `top_k` is more than the model has classes.
    """
    lost: list[Exception] = []
    name = model or only_model(settings, scan_repository(settings.repository))
    with closing(CpuPool(settings.decode_threads, ClientUsage())) as pool:
        trials = Trials(settings.model_load_timeout_ms / 1000)
        loader = VersionLoader(settings, pool, Metrics(None, settings.gpu_device_id), trials, on_lost=lost.append)
        async with aclosing(ModelRepository(loader)) as repository:
            await repository.load(name)
            predictor = repository.predictor(name, version)
            if (task := predictor.manifest.task) != "classification":
                raise LoadFailed(
                    f"{name}: expected a model of classification, found one of {task}; "
                    "name another one with --model, or send the images to POST /detect"
                )
            yield OfflineClassifier(predictor, labels_wanted(top_k, predictor.manifest), lost)


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the file has more than {max_bytes} bytes (max_body_bytes)")


def _read(path: str, max_bytes: int) -> bytes:
    try:
        status = os.stat(path)  # noqa: PTH116 (a name from the file system, which may be no valid text)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe may never end
            raise UnreadableFile("expected a file")
        if status.st_size > max_bytes:
            raise _too_large(max_bytes)
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read()
    except OSError as error:
        raise UnreadableFile(f"the file cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a null character
        raise UnreadableFile(f"the file cannot be read: {error}") from error
