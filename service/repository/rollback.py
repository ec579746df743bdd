"""NAME/rollback.json: which versions were rolled back from and what is served in their place, for the next start.

A version is known by its number and the sha256 of its manifest, so that one which is exported anew is served again.
"""

from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from aaserve.bundle.bundle import MANIFEST_FILE, scan_repository, sha256_of
from aaserve.bundle.errors import BundleError
from aaserve.bundle.files.text import replace_text
from aaserve.bundle.manifest import Version
from aaserve.bundle.sections import Sha256
from aaserve.service.errors import LoadFailed
from aaserve.service.repository.model_settings import (
    SERVING_FILE,
    ModelSettings,
    read_if_there,
    read_model_settings,
    read_serving_file,
)
from aaserve.service.repository.served_model import ServedModel
from aaserve.service.settings import Settings

ROLLBACK_FILE = "rollback.json"


class Rollback(BaseModel):
    """What is remembered until another rollback undoes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    set_aside: dict[Version, Sha256]  # of the manifest
    serve: tuple[Version, ...]  # where the folder asks for nothing but versions that are set aside

    def of(self, folder: Path, found: list[str]) -> list[str]:
        """Those of the versions `found` that are set aside."""
        return [version for version in found if self.set_aside.get(version, "") == manifest_sha256(folder / version)]


def read_rollback(folder: Path) -> Rollback | None:
    """Read what is remembered of the model in `folder`, if anything is.

    Raises:
        LoadFailed: the file cannot be read, or holds something else; one line.
    """
    path = folder / ROLLBACK_FILE
    if (text := read_if_there(path)) is None:
        return None
    try:
        return Rollback.model_validate_json(text)
    except ValidationError as error:
        raise LoadFailed(f"{path}: expected set_aside and serve, found: {error.errors()[0]['msg']}") from error


def write_rollback(folder: Path, rollback: Rollback | None) -> None:
    """Remember this, whole or not at all; None forgets what is remembered.

    Raises:
        OSError: the folder cannot be written.
    """
    path = folder / ROLLBACK_FILE
    if rollback is None:
        path.unlink(missing_ok=True)
    else:
        replace_text(path, rollback.model_dump_json(indent=1) + "\n")


def manifest_sha256(folder: Path) -> str | None:
    """Of a version on disk; None where it cannot be read."""
    try:
        return sha256_of((folder / MANIFEST_FILE).read_bytes())
    except OSError:
        return None


class Choice(NamedTuple):
    """What a model's folder, its serving.toml and its rollback.json ask for."""

    versions: list[str]  # to be served, ascending
    substitutes: list[str]  # for a service that may fall back if all of these are broken, the newest first
    notice: str | None  # that a rollback decides


def choose(folder: Path, own: ModelSettings, found: list[str], *, undo: bool) -> Choice:
    """Say which of the versions `found` are to be served; with `undo`, as if nothing had been rolled back.

    Raises:
        LoadFailed: none is, one that is named is not there, or rollback.json cannot be read.
    """
    rollback = None if undo else read_rollback(folder)
    set_aside = rollback.of(folder, found) if rollback else []
    asked_for, chosen = own.select(found), own.select(found, set_aside)
    if rollback and asked_for and set(asked_for) <= set(set_aside):
        chosen = [version for version in found if version in rollback.serve] or chosen
    if not chosen:
        besides = f" that {ROLLBACK_FILE} does not set aside" if asked_for else ""
        raise LoadFailed(f"{folder}: expected at least one version to serve, found none{besides}")
    older = [version for version in found if int(version) < int(chosen[0]) and version not in set_aside]
    return Choice(
        chosen,
        older[::-1] if own.versions == "latest" else [],  # a list of versions has no substitutes
        f"version {', '.join(set_aside)} is set aside by {ROLLBACK_FILE}" if chosen != asked_for else None,
    )


def remember(model: ServedModel, settings: Settings) -> tuple[bool, str | None]:
    """Write down a rollback of `model` that has just happened.

    Returns:
        whether the folder asks for what is served now, so that there is nothing more to remember of this rollback;
        and why a restart undoes it, None if it does not.

    Raises:
        BundleError, LoadFailed: the folder cannot be read.
    """
    found = scan_repository(settings.repository).get(model.name, [])
    own, _ = read_model_settings(model.folder, settings)
    undone = bool(found) and not isinstance(found, BundleError) and set(own.select(found)) <= model.serving.keys()
    return undone, _remember(model, undone=undone)


def _remember(model: ServedModel, *, undone: bool) -> str | None:
    """As `remember`; why a restart undoes the rollback."""
    now = {version: loaded.bundle.manifest_sha256 for version, loaded in model.serving.items()}
    away = {
        version: loaded.bundle.manifest_sha256
        for version, loaded in model.standby.items()
        if now.get(version) != loaded.bundle.manifest_sha256
    }
    if replaced := [version for version, digest in now.items() if manifest_sha256(model.folder / version) != digest]:
        return f"version {', '.join(replaced)} has been replaced on disk"
    try:
        earlier = read_rollback(model.folder)
        before = earlier.set_aside if earlier else {}
        if not away and not before.keys() & now.keys():  # but for its settings, all is as before
            serving_file = read_serving_file(model.folder)
            same = all(loaded.serving_file == serving_file for loaded in model.serving.values())
            return None if same else f"{SERVING_FILE} has been changed"
        set_aside = {**before, **({} if undone else away)}
        set_aside = {version: digest for version, digest in set_aside.items() if version not in now}
        write_rollback(model.folder, Rollback(set_aside=set_aside, serve=tuple(now)) if set_aside else None)
    except OSError as error:
        return f"{ROLLBACK_FILE} cannot be written: {error.strerror or error}"
    return None
