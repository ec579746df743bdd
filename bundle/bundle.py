"""A bundle on disk: `NAME/VERSION/` with manifest.json and the files it names.

Opening a bundle checks everything in its manifest. Writing one either succeeds completely or leaves nothing.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from aaserve.bundle.errors import BundleError
from aaserve.bundle.files.graph import check_graph
from aaserve.bundle.files.text import NotText, decode_text, replace_text
from aaserve.bundle.manifest import NAME, Manifest

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
REFERENCES_FILE = "references.json"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked bundle: the manifest is valid, and the model file is the one in the manifest."""

    folder: Path
    manifest: Manifest
    manifest_sha256: str  # of the file

    @property
    def model_path(self) -> Path:
        return self.folder / MODEL_FILE

    def content(self, name: str) -> bytes:
        """The bytes of one of its files, read and checked at the time of the call.

        Raises:
            BundleError: their sha256 is not the one in the manifest.
        """
        return _checked(self.folder / name, self.manifest.files[name])


def open_bundle(folder: Path) -> Bundle:
    """Open and check a bundle.

    Raises:
        BundleError: any problem; one line that names file, expected and found.
    """
    path = folder / MANIFEST_FILE
    if folder.is_symlink():
        raise BundleError(f"{folder}: expected a plain folder, found a link")
    content = _content(path)
    try:
        manifest = Manifest.model_validate_json(decode_text(content))
    except NotText as error:
        raise BundleError(f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "manifest"
        raise BundleError(f"{path}: expected a valid {where}, found: {first['msg']}") from error
    if (manifest.name, manifest.version) != (folder.parent.name, folder.name):
        raise BundleError(
            f"{path}: expected name and version as its folders {folder.parent.name}/{folder.name}, "
            f"found {manifest.name}/{manifest.version}"
        )
    contents = {name: _checked(folder / name, expected) for name, expected in manifest.files.items()}
    try:
        check_graph(contents[MODEL_FILE])
    except BundleError as error:
        raise BundleError(f"{folder / MODEL_FILE}: {error}") from error
    return Bundle(folder, manifest, sha256_of(content))


def scan_repository(repository: Path) -> "dict[str, list[str] | BundleError]":
    """The models in `repository/NAME/VERSION/`, each with its versions, ascending, or an error.

    An unreadable folder affects only its own model. Skipped: hidden folders, folders without a version, and system
    folders (lost+found, @eaDir), whose names are not allowed for models.

    Raises:
        BundleError: the repository cannot be read or has no model.
    """
    try:
        with os.scandir(repository) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise BundleError(
            f"{repository}: expected a folder of bundles (NAME/VERSION/{MANIFEST_FILE}), found: {error.strerror}"
        ) from error
    models: dict[str, list[str] | BundleError] = {}
    for name in names:
        possible = re.fullmatch(NAME, name) is not None
        try:
            versions = _versions(repository / name)
            if versions and possible:
                models[name] = versions
            elif versions:
                models[_printable(name)] = BundleError(
                    f"{repository}/{_printable(name)}: expected a name of at most 100 letters, digits, '.', '_' "
                    "and '-', a letter or digit first"
                )
        except OSError as error:
            if possible:
                models[name] = BundleError(f"{repository / name}: expected a readable folder, found: {error.strerror}")
    if not models:
        raise BundleError(f"{repository}: expected at least one NAME/VERSION/{MANIFEST_FILE}, found none")
    return models


def _versions(folder: Path) -> list[str]:
    """Names of the version folders, ascending; empty if there is no folder."""
    try:
        with os.scandir(folder) as entries:
            found = [
                entry.name for entry in entries if entry.name.isascii() and entry.name.isdigit() and entry.is_dir()
            ]
    except (NotADirectoryError, FileNotFoundError):  # a file, or a folder that was just removed
        return []
    return sorted(found, key=int)


def _printable(name: str) -> str:
    """A name for logs, JSON and metrics; it may contain bytes that are not UTF-8."""
    return os.fsencode(name).decode(errors="backslashreplace")


def write_bundle(repository: Path, manifest: Manifest, files: Mapping[str, bytes], *, replace: bool = False) -> Path:
    """Write `repository/NAME/VERSION/` completely or not at all; return the folder. Replaces an old one only if
    `replace`.

    Raises:
        BundleError: the version exists already, the manifest does not describe `files`, or they cannot be written.
    """
    folder = repository / manifest.name / manifest.version
    check_absent(folder, replace=replace)
    found = {name: sha256_of(content) for name, content in files.items()}
    if found != manifest.files:
        raise BundleError(f"{folder}: expected the files {manifest.files}, found {found}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{manifest.version}-", dir=folder.parent))
        try:
            _write_files(partial, manifest, files)
            _swap_in(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        raise BundleError(f"{folder}: expected to write it, found: {error.strerror or error}") from error
    return folder


def replace_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest of a bundle; the files stay. On failure the old manifest stays.

    Raises:
        BundleError: it cannot be written.
    """
    path = folder / MANIFEST_FILE
    try:
        replace_text(path, _manifest_text(manifest))
    except OSError as error:
        raise BundleError(f"{path}: expected to write it, found: {error.strerror or error}") from error


def _manifest_text(manifest: Manifest) -> str:
    return json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def check_absent(folder: Path, *, replace: bool) -> None:
    """Refuse an existing version, unless it is to be replaced.

    Raises:
        BundleError: it exists.
    """
    if folder.exists() and not replace:
        raise BundleError(f"{folder}: expected no such version yet, found one; give another --version, or --force")


def _write_files(folder: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / MANIFEST_FILE).write_text(_manifest_text(manifest), encoding="utf-8")
    folder.chmod(0o755)  # mkdtemp makes it private, but a server may run as another user


def _swap_in(partial: Path, folder: Path) -> None:
    """Replace `folder` by `partial`. If that fails, `folder` stays.

    Folders cannot be exchanged atomically: between two renames the version is absent, but never incomplete.
    """
    if not folder.exists():
        partial.rename(folder)
        return
    old = partial.with_name(f"{partial.name}-old")
    folder.rename(old)
    try:
        partial.rename(folder)
    except BaseException:
        old.rename(folder)
        raise
    shutil.rmtree(old)


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _checked(path: Path, expected: str) -> bytes:
    content = _content(path)
    if (found := sha256_of(content)) != expected:
        raise BundleError(f"{path}: expected sha256 {expected}, found {found}")
    return content


def _content(path: Path) -> bytes:
    try:
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{path}: expected a plain file, found {'a link' if path.is_symlink() else 'none'}")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: expected a readable file, found {error.strerror or 'an error'}") from error
