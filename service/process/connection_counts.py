"""How many connections each worker has and whether it still loads, in a file that all of them map.

Nothing is locked: each worker writes its own number, and one that is a moment old does for a decision that the next
connection corrects.
"""

import mmap
from pathlib import Path

_FILE = "connections"
_BYTES = 4
_ABSENT = 2**32 - 1  # takes none
_LOADING = _ABSENT - 1  # takes some as long as none is ready


class ConnectionCounts:
    """The numbers of all workers, as one of them sees it.

    Args:
        folder: the workers' own, where `create` has made the file.
    """

    def __init__(self, folder: str, slot: int) -> None:
        with (Path(folder) / _FILE).open("r+b") as file:
            self._numbers = memoryview(mmap.mmap(file.fileno(), 0)).cast("I")
        self._slot = slot
        self._loading = True

    @staticmethod
    def create(folder: str, workers: int) -> None:
        """Make the file; no worker takes connections yet."""
        (Path(folder) / _FILE).write_bytes(_ABSENT.to_bytes(_BYTES, "little") * workers)

    def ready(self, connections: int) -> None:
        """This worker has loaded: say how many connections it has, and take its part from now on."""
        self._loading = False
        self._numbers[self._slot] = connections

    def has(self, connections: int) -> None:
        """Say how many this worker has, while it takes some."""
        if self._numbers[self._slot] != _ABSENT:
            self._numbers[self._slot] = _LOADING if self._loading else connections

    def others_have_fewer(self, connections: int) -> bool:
        """Say how many this worker has; is there one with fewer, or one that is ready while this one loads?"""
        self._numbers[self._slot] = _LOADING if self._loading else connections
        return min(self._numbers) < self._numbers[self._slot]

    def may_take(self) -> bool:
        """Whether this worker may take a connection that the others have left: not if it loads and another is ready."""
        return not self._loading or min(self._numbers) >= _LOADING

    def leave(self) -> None:
        """Take none from now on."""
        self._numbers[self._slot] = _ABSENT
