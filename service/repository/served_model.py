"""One model name: the versions that answer, those kept for a rollback, and why others do not answer.

load --> serving: {version: Predictor} <--rollback--> standby
"""

import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from aaserve.bundle.bundle import Bundle
from aaserve.service.engine.predictor import Predictor
from aaserve.service.errors import ModelNotFound

log = logging.getLogger("aaserve")


@dataclass(eq=False)
class LoadedVersion:
    """A version in memory; `lifetime` ends it, `serving_file` is what its settings were read from."""

    bundle: Bundle
    predictor: Predictor
    lifetime: AsyncExitStack
    serving_file: bytes

    async def retire(self) -> None:
        """End it once everything that was let in has been answered."""
        await self.predictor.admission.empty()
        await self.lifetime.aclose()
        manifest = self.bundle.manifest
        log.info("%s version %s is unloaded", manifest.name, manifest.version)


@dataclass(eq=False)
class ServedModel:
    """What is known of one name. Replaced versions stay in `standby` until the next change.

    Args:
        serving: the versions that answer, ascending.
        failures: version --> reason; "" for the model as a whole.
        rolled_back: what to say of a rollback that holds.
        holding: what is on standby is not to come back by itself, and only this process knows.
    """

    folder: Path
    serving: dict[str, LoadedVersion] = field(default_factory=dict)
    standby: dict[str, LoadedVersion] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    rolled_back: str | None = None
    holding: bool = False

    @cached_property
    def name(self) -> str:
        return self.folder.name

    @property
    def loaded(self) -> set[LoadedVersion]:
        """All that is in memory."""
        return {*self.serving.values(), *self.standby.values()}

    @property
    def broken(self) -> list[str]:
        """Versions that should be served and cannot, while others are."""
        return [version for version in self.failures if version and self.serving and version not in self.serving]

    @property
    def notice(self) -> str | None:
        """A warning to show with this model, or None."""
        said = [self.rolled_back] if self.rolled_back else []
        if self.broken:
            broken, served = ", ".join(self.broken), ", ".join(self.serving)
            said.append(f"version {broken} cannot be served, version {served} is served instead")
        return "; ".join(said) or None

    @property
    def default(self) -> Predictor:
        """Of the highest version that answers.

        Raises:
            ModelNotFound: none does.
        """
        if not self.serving:
            raise ModelNotFound(f"{self.name} is not loaded")
        return next(reversed(self.serving.values())).predictor

    def version(self, version: str | None) -> Predictor:
        """The predictor of a version, or of the default.

        Raises:
            ModelNotFound: it does not answer.
        """
        if version is None:
            return self.default
        if version not in self.serving:
            raise ModelNotFound(f"no such version of {self.name}; served: {', '.join(self.serving) or 'none'}")
        return self.serving[version].predictor

    def switch(self, serving: dict[str, LoadedVersion]) -> set[LoadedVersion]:
        """Serve these from now on; return those that are needed no more, to be retired."""
        before = self.loaded
        self.standby, self.serving = self.serving, {version: serving[version] for version in sorted(serving, key=int)}
        return before - self.loaded

    def clear(self) -> set[LoadedVersion]:
        """Serve nothing from now on; return all, to be retired."""
        before = self.loaded
        self.serving, self.standby = {}, {}
        return before
