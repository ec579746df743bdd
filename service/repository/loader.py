"""What a model's folder asks for --> the versions to serve, opened beside those that are served now.

serving.toml, rollback.json --choose--> version --open, verify, try, warm up, compare--> LoadedVersion
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aaserve.bundle.bundle import open_bundle
from aaserve.bundle.errors import BundleError
from aaserve.service.engine.cpu_pool import CpuPool
from aaserve.service.errors import LoadFailed, ProviderMissing, StartFailed
from aaserve.service.observability.metrics import Metrics
from aaserve.service.repository.factory import open_predictor
from aaserve.service.repository.model_settings import SERVING_FILE, read_model_settings, read_serving_file
from aaserve.service.repository.rollback import choose
from aaserve.service.repository.served_model import LoadedVersion, ServedModel
from aaserve.service.repository.trials import Trials
from aaserve.service.settings import Settings

if TYPE_CHECKING:
    from aaserve.service.observability.tracing import Tracing

log = logging.getLogger("aaserve")


@dataclass(frozen=True)
class VersionLoader:
    """Opens versions and changes nothing of what is served.

    Args:
        on_lost: called if a model stops working for good.
    """

    settings: Settings
    pool: CpuPool
    metrics: Metrics
    trials: Trials
    tracing: "Tracing | None" = None
    on_lost: Callable[[Exception], None] = lambda cause: None

    async def open(
        self, model: ServedModel, found: list[str] | BundleError, *, undo: bool
    ) -> tuple[dict[str, LoadedVersion], str | None]:
        """Return what is to be served, and what to say of a rollback that decides on it.

        What is loaded already and has not changed is returned as it is. Reasons of what fails are noted in
        `model.failures`; if this raises, or is cancelled, nothing that it opened stays open.

        Args:
            found: versions in the folder, or why there are none.
            undo: as if nothing had been rolled back.

        Raises:
            BundleError, LoadFailed, StartFailed: a version cannot be served and no other may take its place.
            ProviderMissing: the service's settings ask for a provider or a precision that is not available.
        """
        if isinstance(found, BundleError):
            raise found
        own, settings = read_model_settings(model.folder, self.settings)
        choice = choose(model.folder, own, found, undo=undo)
        serving: dict[str, LoadedVersion] = {}
        broken: list[BundleError | StartFailed] = []
        async with AsyncExitStack() as opened:
            for version in [*choice.versions, *choice.substitutes]:
                if version in choice.versions or not serving:
                    try:
                        serving[version] = await self._unchanged_or_opened(model, version, settings, opened)
                    except (BundleError, StartFailed) as error:
                        model.failures[version] = in_public(self.settings.repository, error)
                        # What is served now is the best substitute, and stays.
                        if isinstance(error, ProviderMissing) or model.serving or settings.broken_version == "fail":
                            raise
                        broken.append(error)
            for passed_over in broken if serving else broken[:-1]:
                log.error("%s", passed_over)
            if not serving:
                raise broken[-1]  # which the caller logs
            opened.pop_all()
        return serving, choice.notice

    async def _unchanged_or_opened(
        self, model: ServedModel, version: str, settings: Settings, opened: AsyncExitStack
    ) -> LoadedVersion:
        try:
            bundle = await asyncio.to_thread(open_bundle, model.folder / version)
            serving_file = read_serving_file(model.folder)
            for loaded in (model.serving.get(version), model.standby.get(version)):
                if loaded and (loaded.bundle.manifest, loaded.serving_file) == (bundle.manifest, serving_file):
                    return loaded
            await self.trials.check(bundle, settings)
            lifetime = AsyncExitStack()
            predictor = await lifetime.enter_async_context(
                open_predictor(bundle, settings, self.pool, self.metrics, self.tracing, self.on_lost)
            )
        except ProviderMissing as error:
            if _computed_by(settings) == _computed_by(self.settings):
                raise  # the service's own settings ask for it
            raise LoadFailed(f"{model.folder / SERVING_FILE}: {error}") from error
        except (MemoryError, OSError, RuntimeError) as error:  # no memory, file, thread or process to be had
            raise StartFailed(f"{model.folder / version}: cannot be opened: {str(error) or 'out of memory'}") from error
        opened.push_async_callback(lifetime.aclose)
        return LoadedVersion(bundle, predictor, lifetime, serving_file)


def _computed_by(settings: Settings) -> tuple[str, str]:
    return settings.provider, settings.cpu_precision


def in_public(repository: Path, error: Exception) -> str:
    """What is wrong, without where on the disk the repository is."""
    return str(error).replace(f"{repository}/", "").replace(f"{repository}:", "the repository:")
