"""The life of the service: starting --> ready (<--> recovering) --> draining, or failed.

Models load and warm up in the background, so that liveness answers from the first moment and readiness only when the
first caller would not have to wait. A model that is lost ends the service: better no process than a dead one that
looks alive.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing, closing, suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from aaserve.bundle.errors import BundleError
from aaserve.service.engine.cpu_pool import CpuPool
from aaserve.service.engine.queueing.client_usage import ClientUsage
from aaserve.service.errors import (
    Draining,
    LoadFailed,
    ModelHung,
    ModelLost,
    NotReady,
    StartFailed,
    ThreadEnded,
)
from aaserve.service.observability.metrics import Metrics
from aaserve.service.repository.loader import VersionLoader
from aaserve.service.repository.lookup import RECOVERING
from aaserve.service.repository.repository import ModelRepository
from aaserve.service.repository.served_model import ServedModel
from aaserve.service.repository.trials import Trials
from aaserve.service.settings import Settings

if TYPE_CHECKING:
    from aaserve.service.observability.tracing import Tracing

_FAILED = "failed: a model stopped working or could not be loaded"
log = logging.getLogger("aaserve")


class State(StrEnum):
    """What readiness reports."""

    STARTING = "starting"
    READY = "ready"
    RECOVERING = "recovering"
    DRAINING = "draining"
    FAILED = "failed"


class Lifecycle:
    """Owns the models between start and stop.

    Args:
        on_failure: called once if nothing can be served or a model is lost; `failure` then says why.
        shared: folder of all workers, if there are several.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        tracing: "Tracing | None" = None,
        *,
        on_failure: Callable[[], None],
        shared: Path | None = None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._tracing = tracing
        self._on_failure = on_failure
        self._trials = Trials(settings.model_load_timeout_ms / 1000, shared)
        self._reloads: set[asyncio.Task[None]] = set()
        self._repository: ModelRepository | None = None
        self._state = State.STARTING
        self._started = asyncio.Event()
        self._stopping = False
        self._lost: Exception | None = None
        self._stopping_or_lost = asyncio.Event()
        self.usage = ClientUsage()
        self.failure: str | None = None
        self.hung = False  # a thread never comes back, and would keep the process from ending

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._live(), name="lifecycle")
        self._task.add_done_callback(lambda _: self._started.set())  # also if it is cancelled before it has begun
        return self

    async def __aexit__(self, *_: object) -> None:
        """Answer what was accepted, then let go of the models."""
        self.stop()
        await asyncio.wait([self._task])  # it raises nothing

    @property
    def state(self) -> State:
        if self._state is not State.READY:
            return self._state
        state = State.READY
        for predictor in self._repository.predictors if self._repository else []:
            if not predictor.ready:
                if not predictor.alive:
                    return State.FAILED
                state = State.RECOVERING
        return state

    @property
    def closes_connections(self) -> bool:
        """Whether the next request is better sent elsewhere: the end is near, or another worker may be ready."""
        return self._state in (State.STARTING, State.DRAINING)

    def drain(self) -> None:
        """Report that the end is near; requests are answered as long as they come."""
        if self._state is not State.FAILED:
            self._state = State.DRAINING

    def stop(self) -> None:
        """Release the models and cancel those that are loading; `__aexit__` waits for that."""
        self.drain()
        if not self._started.is_set() and not self._stopping:
            self._task.cancel()
        self._stopping = True
        self._stopping_or_lost.set()
        for reload in self._reloads:
            reload.cancel()

    def reload(self) -> None:
        """Bring the models in line with the repository on disk, once they are loaded and if they are served at all."""
        task = asyncio.create_task(self._reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        await self.started()  # else a change that came after its model was read would be missed
        if self.state in (State.READY, State.RECOVERING):
            try:
                await self.repository.reload()
            except Exception:  # a bug, which must not pass for a reload
                log.exception("the reload failed")
            else:
                self._warn_of_missing()
                log.info("reloaded")

    def thread_ended(self, name: str, error: BaseException) -> None:
        """In any thread: one that the whole service needs has ended, and so does the service."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._lose, ThreadEnded(f"the thread {name} ended unexpectedly: {error!r}"))

    async def started(self) -> None:
        """Return when nothing is loading any more, successfully or not."""
        await self._started.wait()

    @property
    def repository(self) -> ModelRepository:
        """All models.

        Raises:
            NotReady, Draining: no request is answered at the moment.
        """
        match self._state:
            case State.STARTING:
                raise NotReady
            case State.FAILED:
                raise NotReady(_FAILED)
            case State.DRAINING if not self._started.is_set():
                raise Draining
        assert self._repository is not None
        return self._repository

    @property
    def models(self) -> dict[str, ServedModel]:
        """Every model known so far, in any state, by name."""
        return {model.name: model for model in self._repository or ()}

    @property
    def default_model(self) -> str | None:
        """The model that answers a request that names none, as far as it is known by now."""
        return self._repository.default_model if self._repository else None

    def require_ready(self) -> None:
        """Raise NotReady or Draining unless requests should come here."""
        match self.state:
            case State.DRAINING:
                raise Draining
            case State.RECOVERING:
                raise NotReady(RECOVERING)
            case State.FAILED:
                raise NotReady(_FAILED)
        if missing := self.repository.required_and_missing:
            raise NotReady(f"required_models or default_model: not served: {', '.join(sorted(missing))}")

    def _warn_of_missing(self) -> None:
        if self._repository and (missing := self._repository.required_and_missing):
            log.error(
                "not ready: required_models or default_model names models that are not served: %s",
                ", ".join(sorted(missing)),
            )

    async def _live(self) -> None:
        settings = self._settings
        try:
            with closing(CpuPool(settings.decode_threads, self.usage, partial(self.thread_ended, "decode"))) as pool:
                loader = VersionLoader(settings, pool, self._metrics, self._trials, self._tracing, self._lose)
                async with aclosing(ModelRepository(loader)) as repository:
                    await repository.open()
                    self._repository = repository
                    if self._state is State.STARTING:
                        self._state = State.READY
                        self._warn_of_missing()
                        if len(repository.served()) > 1:
                            log.info("a request that names no model: %s", _answered_by(repository))
                        if not repository.required_and_missing:
                            log.info("ready")
                    self._started.set()
                    await self._stopping_or_lost.wait()
                    if self._lost:
                        self._state = State.FAILED  # while the other models answer what they have
                if self._lost:
                    raise self._lost
        except (BundleError, LoadFailed, StartFailed, ModelLost) as error:
            self.failure = str(error)
            self.hung = isinstance(error, ModelHung)
        except asyncio.CancelledError:
            if not self._stopping:
                raise
        except Exception:
            log.exception("the service failed")
            self.failure = "the service failed; the traceback is above"
        if self.failure:
            self._state = State.FAILED
            self._started.set()
            self._on_failure()

    def _lose(self, cause: Exception) -> None:
        if not (self._stopping and isinstance(cause, ThreadEnded)):  # such a thread is not needed any more
            self._lost = self._lost or cause
            self._stopping_or_lost.set()


def _answered_by(repository: ModelRepository) -> str:
    """Which model answers a request that names none; where several tasks are served, for each."""
    tasks = repository.tasks
    answers = []
    for task in tasks:
        name = repository.default_for(task)
        words = f"answered by {name}" if name else "refused; default_model says which one answers it"
        answers.append(f"{task} {words}" if len(tasks) > 1 else words)
    return "; ".join(answers)
