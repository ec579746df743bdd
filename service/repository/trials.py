"""Which bundles were tried in a process of their own, once in all workers of a service.

check --known?--> fine | lock --tried meanwhile?--> its verdict | try_model --> verdict, for this process and the others

The workers share a folder with a file for each bundle that was tried. A model that failed is tried again when it is
asked for again, because a machine may have had too little memory or time for it.
"""

import asyncio
import fcntl
import time
from pathlib import Path
from typing import TextIO

from aaserve.bundle.bundle import Bundle
from aaserve.service.engine.trial import try_model
from aaserve.service.errors import StartFailed

_POLL = 0.05  # seconds; one process cannot wait for another's lock without a thread that nothing ends
_SOUND = "sound"


class Trials:
    """Knows what has been tried by this process, and by the workers beside it.

    Args:
        seconds: that a trial may take.
        folder: of all workers; None if there is only this process.
    """

    def __init__(self, seconds: float, folder: Path | None = None) -> None:
        self._seconds = seconds
        self._folder = folder
        self._sound: set[str] = set()  # sha256 of manifests, which name the sha256 of the model

    async def check(self, bundle: Bundle) -> None:
        """Return if the bundle's model can be loaded and run without harm, at once if that is known.

        Raises:
            StartFailed: it crashed, or did not finish in time; one line.
            BundleError: it is no longer what the manifest says.
            OSError: no process can be started.
        """
        if bundle.manifest_sha256 in self._sound:
            return
        failure = await (self._shared(bundle, self._folder) if self._folder else self._try(bundle))
        if failure:
            raise StartFailed(f"{bundle.model_path}: expected a model that loads and runs in a trial, but {failure}")
        self._sound.add(bundle.manifest_sha256)

    async def _try(self, bundle: Bundle) -> str | None:
        return await try_model(bundle, self._seconds)

    async def _shared(self, bundle: Bundle, folder: Path) -> str | None:
        asked = time.monotonic()  # of the machine: all workers have the same
        with (folder / f"trial-{bundle.manifest_sha256}").open("a+") as file:
            while not _locked(file):
                await asyncio.sleep(_POLL)
            file.seek(0)
            tried, _, verdict = file.read().partition(" ")
            if verdict == _SOUND:
                return None
            if verdict and float(tried) > asked:  # while this process waited
                return verdict
            failure = await self._try(bundle)
            file.truncate(0)
            file.write(f"{time.monotonic()} {failure or _SOUND}")
            return failure


def _locked(file: TextIO) -> bool:
    """Lock the file, which closing it undoes, and so does the end of the process."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
