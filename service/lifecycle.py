"""The life of the service: starting --> ready (<--> recovering) --> draining, or failed.

Models load and warm up in the background, so that liveness answers from the first moment and readiness only when the
first caller would not have to wait. A model that is lost ends the service: better no process than a dead one that
looks alive.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from bundle.bundle import Bundle
from bundle.manifest import Manifest
from service.decode_pool import DecodePool
from service.errors import Draining, ModelLost, ModelNotFound, NotReady, ServiceError, StartFailed
from service.metrics import Metrics
from service.predictor import Predictor, open_predictor
from service.settings import Settings

log = logging.getLogger("aaserve")


class State(StrEnum):
    """What readiness reports."""

    STARTING = "starting"
    READY = "ready"
    RECOVERING = "recovering"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Served:
    """One model as it stands now; `provider` is None until it is loaded."""

    manifest: Manifest
    state: State
    provider: str | None


class Lifecycle:
    """Owns the predictors between start and stop.

    Args:
        bundles: one for each model name.
        on_failure: called once if a model cannot be loaded or is lost; `failure` then says why.
    """

    def __init__(
        self, bundles: Sequence[Bundle], settings: Settings, metrics: Metrics, *, on_failure: Callable[[], None]
    ) -> None:
        self._bundles = bundles
        self._settings = settings
        self._metrics = metrics
        self._on_failure = on_failure
        self._predictors: dict[str, Predictor] = {}
        self._state = State.STARTING
        self._stop = asyncio.Event()
        self.failure: str | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._live(), name="lifecycle")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Answer what was accepted, then let go of the models."""
        self.drain()
        self._stop.set()
        await self._task

    @property
    def state(self) -> State:
        if self._state is not State.READY:
            return self._state
        if not all(predictor.alive for predictor in self._predictors.values()):
            return State.FAILED
        if not all(predictor.ready for predictor in self._predictors.values()):
            return State.RECOVERING
        return State.READY

    def drain(self) -> None:
        """Take no new requests."""
        if self._state is not State.FAILED:
            self._state = State.DRAINING

    def predictor(self, model: str | None, version: str | None) -> Predictor:
        """The predictor for a request; both may be left out where only one model is served.

        Raises:
            NotReady, Draining: for nobody at the moment.
            ModelNotFound: not served here.
        """
        self.require_ready()
        if model is None:
            if len(self._predictors) > 1:
                raise ModelNotFound(f"several models are served; add ?model= with one of {', '.join(self._predictors)}")
            predictor = next(iter(self._predictors.values()))
        elif model in self._predictors:
            predictor = self._predictors[model]
        else:
            raise ModelNotFound(f"no such model; served: {', '.join(self._predictors)}")
        if version not in (None, predictor.manifest.version):
            raise ModelNotFound(f"no such version of {predictor.manifest.name}; served: {predictor.manifest.version}")
        return predictor

    def served(self) -> list[Served]:
        """Every model, loaded or not."""
        found = []
        for bundle in self._bundles:
            predictor = self._predictors.get(bundle.manifest.name)
            state = self._state
            if state is State.READY and predictor is not None and not predictor.ready:
                state = State.RECOVERING if predictor.alive else State.FAILED
            found.append(Served(bundle.manifest, state, predictor.provider if predictor else None))
        return found

    def require_ready(self) -> None:
        """Raise NotReady or Draining unless requests can be answered."""
        if unready := self._unready():
            raise unready

    def refusal(self, *, body_bytes: int, timeout: float) -> ServiceError | None:
        """Why no request of this kind would be taken now, whichever model it names; None if one might be.

        Args: as `Admission.refusal`.
        """
        if unready := self._unready():
            return unready
        if len(self._predictors) > 1:
            return None  # one of them may have room
        predictor = next(iter(self._predictors.values()))
        return predictor.admission.refusal(body_bytes=body_bytes, timeout=timeout)

    def _unready(self) -> ServiceError | None:
        match self.state:
            case State.READY:
                return None
            case State.DRAINING:
                return Draining()
            case State.FAILED:
                return NotReady("failed: a model stopped working or could not be loaded")
            case State.RECOVERING:
                return NotReady("recovering: a model stopped working and is being loaded again")
            case _:
                return NotReady()

    async def _live(self) -> None:
        settings = self._settings
        pool = DecodePool(settings.decode_threads, max_waiting=settings.max_queue_size * len(self._bundles))
        try:
            async with AsyncExitStack() as stack:
                stack.callback(pool.close)
                for served in self._bundles:
                    predictor = await stack.enter_async_context(open_predictor(served, settings, pool, self._metrics))
                    self._predictors[served.manifest.name] = predictor
                if self._state is State.STARTING:
                    self._state = State.READY
                    log.info("ready")
                await self._stopped_or_lost()
        except (StartFailed, ModelLost) as error:
            self.failure = str(error)
        except Exception:
            log.exception("the service failed")
            self.failure = "the service failed; the traceback is above"
        if self.failure:
            self._state = State.FAILED
            self._on_failure()

    async def _stopped_or_lost(self) -> None:
        """Wait for the stop; raise what ended a model before it."""
        stop = asyncio.ensure_future(self._stop.wait())
        models = [asyncio.ensure_future(predictor.ended()) for predictor in self._predictors.values()]
        try:
            ended, _ = await asyncio.wait([stop, *models], return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            for task in (stop, *models):
                task.cancel()
