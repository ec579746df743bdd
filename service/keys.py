"""Who may do what: a file of hashed keys, read again whenever it changes.

    scope[,scope] sha256-of-the-key  anything else is a comment

A key comes as `Authorization: Bearer KEY`. The file holds no secret that would be of use to who reads it.
"""

import hashlib
import hmac
import re
from pathlib import Path
from typing import Literal

from starlette.requests import Request

from service.errors import Forbidden, StartFailed, Unauthorized

Scope = Literal["infer", "admin", "metrics"]
_LINE = re.compile(r"((?:infer|admin|metrics)(?:,(?:infer|admin|metrics))*)\s+([0-9a-f]{64})(?:\s.*)?")


class Keys:
    """The keys of a file; none without one.

    Raises:
        StartFailed: the file cannot be read, or a line is no key.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp = 0
        self._keys: list[tuple[frozenset[str], str]] = []
        self._refresh()

    def require(self, request: Request, scope: Scope) -> None:
        """Return if the request's key has the scope.

        Raises:
            Unauthorized: no key, or one that is not known.
            Forbidden: a key without this scope; or there are no keys at all, so that nobody may.
        """
        self._refresh()
        if not self._keys:
            raise Forbidden("off: no api_keys_file is set")
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        found = hashlib.sha256(key.strip().encode()).hexdigest()
        # All are compared, each in constant time: how long it takes says nothing of how near a guess was.
        scopes = [scopes for scopes, digest in self._keys if hmac.compare_digest(digest, found)]
        if kind.lower() != "bearer" or not scopes:
            raise Unauthorized
        if not any(scope in allowed for allowed in scopes):
            raise Forbidden(f"this key is not for {scope}")

    def _refresh(self) -> None:
        if self._path is None:
            return
        try:
            stamp = self._path.stat().st_mtime_ns
            if stamp != self._stamp:
                self._keys = [_parsed(line, self._path) for line in _lines(self._path)]
                self._stamp = stamp
        except OSError as error:
            raise StartFailed(f"{self._path}: expected a readable file of keys, found {error.strerror}") from error


def _lines(path: Path) -> list[str]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _parsed(line: str, path: Path) -> tuple[frozenset[str], str]:
    match = _LINE.fullmatch(line)
    if match is None:
        raise StartFailed(f"{path}: expected `scope[,scope] sha256`, found {line.split()[0]!r} and more")
    return frozenset(match[1].split(",")), match[2]
