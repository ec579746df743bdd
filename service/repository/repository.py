"""The models on disk and in memory, and every change from one to the other.

    NAME/VERSION/ --VersionLoader--> beside the old one --switch--> the old one stays for rollback

A change either happens whole or leaves everything as it was, with the reason beside the version that failed. Where
nothing was served before, an older version may take the place of one that fails (`broken_version`).
"""

import asyncio
import logging

from aaserve.bundle.bundle import scan_repository
from aaserve.bundle.errors import BundleError
from aaserve.service.errors import Conflict, LoadFailed, ModelNotFound, ProviderMissing, StartFailed
from aaserve.service.repository.default_model import read_default_model
from aaserve.service.repository.loader import VersionLoader, in_public
from aaserve.service.repository.lookup import ModelLookup
from aaserve.service.repository.model_settings import SERVING_FILE
from aaserve.service.repository.rollback import remember
from aaserve.service.repository.served_model import LoadedVersion, ServedModel

log = logging.getLogger("aaserve")


class ModelRepository(ModelLookup):
    """All models of one process. Changes queue up behind each other; requests never wait for them."""

    def __init__(self, loader: VersionLoader) -> None:
        super().__init__()
        settings = self._settings = loader.settings
        self._metrics = loader.metrics
        self._loader = loader
        self._unloaded: set[str] = set()  # by a key for it, until it is loaded
        self._required = frozenset(filter(None, map(str.strip, settings.required_models.split(","))))
        self._changing = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self._metrics.models_missing.set(len(self._missing))

    @property
    def required_and_missing(self) -> set[str]:
        """Models without which the service is not ready, and of which nothing is served.

        A default model that was named is one of them: without it, requests that name no model get 404.
        """
        required = self._required | {self._default} if self._default else self._required
        return set(required).difference(self.served())

    async def open(self) -> None:
        """Load what is on disk.

        Raises:
            BundleError: there is no repository.
            LoadFailed: nothing in it can be served; or, if the settings are strict, one model cannot.
            LoadFailed: in any case, for a default model that is not there.
            ProviderMissing: in any case, for a provider or a precision that the service's settings ask for.
        """
        failures = []
        found = scan_repository(self._settings.repository)
        try:
            self._default = read_default_model(self._settings, found)
        except LoadFailed as error:
            if not self._loader.trials.of_workers:
                raise
            # The start has checked it. Wrong since then, it would end this worker, and with it the service.
            log.error("there is no default model: %s", error)
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
                model.failures[""] = in_public(self._settings.repository, error)
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
            except ProviderMissing as error:
                log.error("%s: %s", name, error)
            except (LoadFailed, ModelNotFound) as error:
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
            if model and model.standby:
                self._retire(model.switch(model.standby))
                self._report(model)
                self._rolled_back(model)
                return model
            if model and model.rolled_back:
                return await self._load(name, undo=True)  # what an earlier process did
            raise ModelNotFound(f"{name} has nothing to roll back to")

    async def aclose(self) -> None:
        """Answer what is queued, then let go of everything."""
        async with self._changing:
            for model in self:
                self._retire(model.clear())
            await asyncio.gather(*self._retiring)

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
        try:
            serving, rolled_back = await self._loader.open(model, found.get(name, []), undo=undo)
        except (BundleError, LoadFailed, StartFailed) as error:
            if not model.failures:
                model.failures[""] = in_public(self._settings.repository, error)
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
            undone, obstacle = remember(model, self._settings)
        except (BundleError, LoadFailed) as error:
            undone, obstacle = False, in_public(self._settings.repository, error)
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

    @property
    def _missing(self) -> set[str]:
        """Models of the repository, or required ones, of which nothing is served."""
        return self._models.keys() - self.served() | self.required_and_missing

    def _report(self, model: ServedModel) -> None:
        predictors = [loaded.predictor for loaded in model.serving.values()]
        failed = list(model.failures) if not model.serving else []
        self._metrics.watch_model(model.name, predictors, failed=failed, fallback=bool(model.broken))
        self._metrics.models_missing.set(len(self._missing))

    def _retire(self, versions: set[LoadedVersion]) -> None:
        for version in versions:
            retiring = asyncio.create_task(version.retire())
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)
