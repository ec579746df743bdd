"""Who may do what: a file of hashed keys, read again as soon as it changes.

    scope[,scope] sha256-of-the-key  anything else is a comment

The file holds nothing of use to who reads it, and neither a key nor a line of the file is ever logged.
"""

import hashlib
import hmac
import logging
import re
from pathlib import Path

from aaserve.bundle.files.text import NotText, check_regular, read_text
from aaserve.service.errors import StartFailed

_LINE = re.compile(r"((?:infer|admin|metrics)(?:,(?:infer|admin|metrics))*)\s+([0-9a-f]{64})(?:\s.*)?")
log = logging.getLogger("aaserve")


class Keys:
    """The keys of a file as it is now; a file that is broken later leaves them as they were, and the log says so.

    Raises:
        StartFailed: the file cannot be read, a line is no key, or there is no key in it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found = _state(path)
        self._keys = _read(path)

    def scopes(self, key: bytes) -> frozenset[str]:
        """What the key is for; nothing if it is none of the file's."""
        self._refresh()
        digest = hashlib.sha256(key).hexdigest()
        # All are compared, each in constant time: how long it takes says nothing of how near a guess was.
        matching = [scopes for known, scopes in self._keys if hmac.compare_digest(known, digest)]
        return frozenset().union(*matching)

    def _refresh(self) -> None:
        found = _state(self._path)
        if found == self._found:
            return
        self._found = found
        try:
            self._keys = _read(self._path)
            log.info("%s: read again, keys: %d", self._path, len(self._keys))
        except StartFailed as error:
            log.error("the keys stay as they were: %s", error)


def _state(path: Path) -> object:
    """What changes with the file."""
    try:
        found = path.stat()
    except OSError as error:
        return error.errno
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path) -> list[tuple[str, frozenset[str]]]:
    try:
        check_regular(path)
        lines = read_text(path).split("\n")  # splitlines() would also split at a form feed in a comment
    except OSError as error:
        raise StartFailed(f"{path}: expected a readable file of keys, found {error.strerror or error}") from error
    except NotText as error:
        raise StartFailed(str(error)) from error
    keys = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise StartFailed(f"{path}: expected `scope[,scope] sha256`, found something else in line {number}")
        keys.append((match[2], frozenset(match[1].split(","))))
    if not keys:
        raise StartFailed(f"{path}: expected at least one key, found none")
    return keys
