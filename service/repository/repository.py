"""The models on disk and in memory, and every change from one to the other.

    NAME/VERSION/ --open, verify, warm up, compare--> beside the old one --switch--> the old one stays for rollback

A change either happens whole or leaves everything as it was, with the reason beside the version that failed. Where
nothing was served before, an older version may take the place of one that fails (`broken_version`).
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from bundle.bundle import open_bundle, scan_repository
from bundle.errors import BundleError
from service.engine.cpu_pool import CpuPool
from service.engine.predictor import Predictor
from service.errors import Conflict, LoadFailed, ModelNotFound, NotReady, ProviderMissing, StartFailed
from service.observability.metrics import Metrics
from service.repository.default_model import read_default_model
from service.repository.factory import open_predictor
from service.repository.model_settings import SERVING_FILE, read_model_settings, read_serving_file
from service.repository.rollback import choose, remember
from service.repository.served_model import LoadedVersion, ServedModel, retire
from service.settings import Settings

if TYPE_CHECKING:
    from service.observability.tracing import Tracing

RECOVERING = "recovering: a model stopped working and is being loaded again"
log = logging.getLogger("aaserve")


class ModelRepository:
    """All models of one process. Changes queue up behind each other; requests never wait for them."""

    def __init__(self, settings: Settings, pool: CpuPool, metrics: Metrics, tracing: "Tracing | None" = None) -> None:
        self._settings = settings
        self._pool = pool
        self._metrics = metrics
        self._tracing = tracing
        self._models: dict[str, ServedModel] = {}
        self._default: str | None = None
        self._unloaded: set[str] = set()  # by a key for it, until it is loaded
        self._required = frozenset(filter(None, map(str.strip, settings.required_models.split(","))))
        self._changing = asyncio.Lock()
        self._retiring: set[asyncio.Future[list[None]]] = set()
        self._watching: set[asyncio.Task[None]] = set()
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._metrics.models_missing.set(len(self._missing))

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    @property
    def predictors(self) -> list[Predictor]:
        """Those that answer."""
        return [loaded.predictor for model in self for loaded in model.serving.values()]

    @property
    def required_and_missing(self) -> set[str]:
        """Models without which the service is not ready, and of which nothing is served."""
        return {name for name in self._required if name not in self._models or not self._models[name].serving}

    @property
    def default_model(self) -> str | None:
        """The model that answers a request that names none; None if such a request is refused."""
        if self._default is not None:
            return self._default
        served = [model.name for model in self if model.serving]
        return served[0] if len(served) == 1 else None

    def predictor(self, name: str | None, version: str | None) -> Predictor:
        """The predictor for a request; without a name of the default model, without a version of its highest.

        Raises:
            ModelNotFound: not served here.
            NotReady: it stopped working and is being opened again; the others answer meanwhile.
        """
        served = [model.name for model in self if model.serving]
        if name is None:
            name = self.default_model
            if name is None and served:
                raise ModelNotFound(f"several models are served; add ?model= with one of {', '.join(served)}")
            if name is not None and name not in served:
                raise ModelNotFound(f"the default model, {name}, is not loaded; served: {', '.join(served) or 'none'}")
        if name is None or name not in self._models:
            raise ModelNotFound(f"no such model; served: {', '.join(served) or 'none'}")
        predictor = self._models[name].version(version)
        if not predictor.ready:
            raise NotReady(RECOVERING)
        return predictor

    def candidates(self, name: str | None, version: str | None) -> list[Predictor]:
        """Those that a request can mean while more of its name may still come, one at least.

        Raises:
            ModelNotFound: there is none.
        """
        found = [
            loaded.predictor
            for model in self
            if name in (None, model.name)
            for number, loaded in model.serving.items()
            if version in (None, number)
        ]
        return found or [self.predictor(name, version)]

    def versions(self, name: str) -> list[str]:
        """Those of a model that answer, ascending."""
        return sorted(self._models[name].serving, key=int)

    async def open(self) -> None:
        """Load what is on disk.

        Raises:
            BundleError: there is no repository.
            LoadFailed: nothing in it can be served; or, if the settings are strict, one model cannot.
            LoadFailed, ProviderMissing: in any case, for a default model that is not there and for a provider.
        """
        failures = []
        found = scan_repository(self._settings.repository)
        self._default = read_default_model(self._settings, found)
        for name in found:
            try:
                await self.load(name)
            except LoadFailed as error:
                if self._settings.strict:
                    raise
                log.error("%s", error)
                failures.append(str(error))
        if not self.predictors:
            raise LoadFailed(failures[0])

    async def reload(self) -> None:
        """Bring memory in line with the disk: new and changed versions are loaded, vanished models unloaded.

        What was rolled back or unloaded stays so.
        """
        try:
            names = scan_repository(self._settings.repository)
        except BundleError as error:
            log.error("nothing is reloaded: %s", error)
            for model in self:
                model.failures[""] = self._in_public(error)
                self._metrics.reloads.labels(model.name, "failed").inc()
                self._report(model)
            return
        try:
            self._default = read_default_model(self._settings, names)
        except LoadFailed as error:
            log.error("the default model stays %s: %s", self._default or "none", error)
        for name in sorted({*names, *self._models} - self._unloaded):
            try:
                if name in names:
                    await self.load(name)
                else:
                    async with self._changing:
                        if name in self._models:
                            self._drop(name)
            except (LoadFailed, ModelNotFound, ProviderMissing) as error:
                log.error("%s", error)

    async def load(self, name: str) -> ServedModel:
        """Serve what the model's folder and its serving.toml say now; what has not changed stays in memory.

        What was rolled back from is not served again.

        Raises:
            ModelNotFound: no such folder.
            LoadFailed: a version cannot be served, or there is none; everything stays as it was.
            ProviderMissing: likewise.
        """
        async with self._changing:
            return await self._load(name)

    async def unload(self, name: str) -> ServedModel:
        """Do not serve it any more, and give its memory back.

        Raises:
            ModelNotFound: it is not known here.
        """
        async with self._changing:
            if name not in self._models:
                raise ModelNotFound(f"no such model; known: {', '.join(self._models) or 'none'}")
            self._unloaded.add(name)
            return self._drop(name)

    async def rollback(self, name: str) -> ServedModel:
        """Serve what was served before the last change; a second rollback takes the first one back.

        Raises:
            ModelNotFound: it is not known here, or there was nothing before.
            LoadFailed: what an earlier process had rolled back from cannot be served; everything stays as it was.
            ProviderMissing: likewise.
            Conflict: this is one worker of several, and the disk cannot tell the others; everything stays as it was.
        """
        async with self._changing:
            model = self._models.get(name)
            if model is None:
                raise ModelNotFound(f"{name} has nothing to roll back to")
            if model.standby:
                self._retire(model.switch(model.standby))
                self._report(model)
                self._rolled_back(model)
                return model
            if not model.rolled_back:
                raise ModelNotFound(f"{name} has nothing to roll back to")
            return await self._load(name, undo=True)  # what an earlier process did

    async def lost(self) -> None:
        """Return never; raise ModelLost when a model died and could not be opened again."""
        await asyncio.shield(self._lost)

    async def close(self) -> None:
        """Answer what is queued, then let go of everything.

        Raises:
            ModelLost: a model died, before or meanwhile.
        """
        async with self._changing:
            for model in self:
                self._retire(model.clear())
            await asyncio.gather(*self._retiring)
            await asyncio.gather(*self._watching)  # all have ended, one way or the other
        if self._lost.done():
            self._lost.result()

    async def _load(self, name: str, *, undo: bool = False) -> ServedModel:
        """As `load`; with `undo`, what is remembered of a rollback is forgotten."""
        try:
            found = scan_repository(self._settings.repository)
        except BundleError as error:
            if name not in self._models:
                raise LoadFailed(str(error)) from error
            found = {name: error}
        if name not in self._models and name not in found:
            raise ModelNotFound(f"no such model; in the repository: {', '.join(found)}")
        model = self._models.setdefault(name, ServedModel(self._settings.repository / name))
        for outcome in ("loaded", "failed"):
            self._metrics.reloads.labels(name, outcome)  # from 0, so that the first one is an increase
        model.failures.clear()
        opened: list[LoadedVersion] = []
        try:
            serving, rolled_back = await self._open_versions(model, found.get(name, []), opened, undo=undo)
        except (BundleError, LoadFailed, StartFailed) as error:
            for loaded in opened:
                await loaded.lifetime.aclose()
            if not model.failures:
                model.failures[""] = self._in_public(error)
            self._metrics.reloads.labels(name, "failed").inc()
            self._report(model)
            if isinstance(error, ProviderMissing):
                raise
            raise LoadFailed(str(error)) from error
        self._unloaded.discard(name)
        if model.holding and serving == model.standby and not undo:
            serving = model.serving  # the disk still has what was rolled back from, and nothing newer
        elif not rolled_back or model.rolled_back is None:
            model.rolled_back = rolled_back
        if serving != model.serving:
            model.holding = False
            self._retire(model.switch(serving))
        if undo:
            self._rolled_back(model)
        self._report(model)
        if model.broken:
            log.error("%s: %s", name, model.notice)
        if model.failures:
            self._metrics.reloads.labels(name, "failed").inc()
        self._metrics.reloads.labels(name, "loaded").inc()
        return model

    def _drop(self, name: str) -> ServedModel:
        model = self._models.pop(name)
        model.failures.clear()
        self._retire(model.clear())
        self._report(model)
        return model

    def _rolled_back(self, model: ServedModel) -> None:
        """Have what is served now outlast reloads and, if possible, this process."""
        before, now = ", ".join(model.standby), ", ".join(model.serving)
        try:
            found = scan_repository(self._settings.repository).get(model.name, [])
            own, _ = read_model_settings(model.folder, self._settings)
            undone = (
                bool(found) and not isinstance(found, BundleError) and set(own.select(found)) <= model.serving.keys()
            )
            obstacle = remember(model, undone=undone)
        except (BundleError, LoadFailed) as error:
            undone, obstacle = False, self._in_public(error)
        if obstacle and self._settings.workers > 1:
            self._retire(model.switch(model.standby))
            self._report(model)
            raise Conflict(
                f"{model.name} is not rolled back, because the other workers could not follow: {obstacle}; "
                f"name the versions to serve in {SERVING_FILE} and send SIGHUP"
            )
        words = f"rolled back from version {before} to {now}"
        if obstacle:
            words += f"; a restart undoes that: {obstacle}"
        log.warning("%s: %s", model.name, words)
        model.rolled_back = None if undone and not obstacle else words
        model.holding = obstacle is not None

    def _in_public(self, error: Exception) -> str:
        """What is wrong, without where on the disk the repository is."""
        repository = self._settings.repository
        return str(error).replace(f"{repository}/", "").replace(f"{repository}:", "the repository:")

    async def _open_versions(
        self, model: ServedModel, found: list[str] | BundleError, opened: list[LoadedVersion], *, undo: bool
    ) -> tuple[dict[str, LoadedVersion], str | None]:
        """What is to be served, and what to say of a rollback that decides on it.

        Versions that had to be opened are noted in `opened` as well.
        """
        if isinstance(found, BundleError):
            raise found
        own, settings = read_model_settings(model.folder, self._settings)
        choice = choose(model.folder, own, found, undo=undo)
        serving: dict[str, LoadedVersion] = {}
        broken: list[BundleError | StartFailed] = []
        for version in [*choice.versions, *choice.substitutes]:
            if version in choice.versions or not serving:
                try:
                    serving[version] = await self._unchanged_or_opened(model, version, settings, opened)
                except (BundleError, StartFailed) as error:
                    # What is served now is the best substitute, and stays.
                    if isinstance(error, ProviderMissing) or model.serving or settings.broken_version == "fail":
                        raise
                    broken.append(error)
        raised = None if serving else broken.pop()  # which the caller logs
        for passed_over in broken:
            log.error("%s", passed_over)
        if raised:
            raise raised
        return serving, choice.notice

    async def _unchanged_or_opened(
        self, model: ServedModel, version: str, settings: Settings, opened: list[LoadedVersion]
    ) -> LoadedVersion:
        try:
            bundle = await asyncio.to_thread(open_bundle, model.folder / version)
            serving_file = read_serving_file(model.folder)
            for loaded in (model.serving.get(version), model.standby.get(version)):
                if loaded and (loaded.bundle.manifest, loaded.serving_file) == (bundle.manifest, serving_file):
                    return loaded
            lifetime = AsyncExitStack()
            predictor = await lifetime.enter_async_context(
                open_predictor(bundle, settings, self._pool, self._metrics, self._tracing)
            )
        except (BundleError, StartFailed) as error:
            model.failures[version] = self._in_public(error)
            raise
        except (MemoryError, OSError, RuntimeError) as error:  # no memory, no file or no thread to be had
            failure = StartFailed(f"{model.folder / version}: cannot be opened: {str(error) or 'out of memory'}")
            model.failures[version] = self._in_public(failure)
            raise failure from error
        loaded = LoadedVersion(bundle, predictor, lifetime, serving_file)
        opened.append(loaded)
        task = asyncio.create_task(self._watch(predictor))
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)
        return loaded

    async def _watch(self, predictor: Predictor) -> None:
        try:
            await predictor.ended()
        except Exception as error:  # ModelLost; anything else is a bug, and ends the service as well
            if not self._lost.done():
                self._lost.set_exception(error)

    @property
    def _missing(self) -> set[str]:
        """Models of the repository, or required ones, of which nothing is served."""
        return {model.name for model in self if not model.serving} | self.required_and_missing

    def _report(self, model: ServedModel) -> None:
        predictors = [loaded.predictor for loaded in model.serving.values()]
        failed = list(model.failures) if not model.serving else []
        self._metrics.watch_model(model.name, predictors, failed=failed, fallback=bool(model.broken))
        self._metrics.models_missing.set(len(self._missing))

    def _retire(self, versions: list[LoadedVersion]) -> None:
        if versions:
            retiring = retire(versions)
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)


@asynccontextmanager
async def open_repository(
    settings: Settings, pool: CpuPool, metrics: Metrics, tracing: "Tracing | None" = None
) -> AsyncIterator[ModelRepository]:
    """All models of `settings.repository`; on leaving, what is queued is answered first.

    Raises:
        As `ModelRepository.open`.
    """
    repository = ModelRepository(settings, pool, metrics, tracing)
    try:
        await repository.open()
        yield repository
    finally:
        await repository.close()
