"""Tries a model in a process of its own: if it crashes the runtime, or never comes back, only that process is lost.

a bundle --the bytes that were checked--> trial_process: load, run --> ended well | crashed | did not finish in time

Always on the CPU: a GPU may have no memory to spare for a second copy. It is OpenVINO that tries a model if that will
serve it, else ONNX Runtime. A bundle that ended well is not tried again. The workers of a service share a folder with a
locked file for each bundle: one tries, those that wait take its verdict. A model that failed is tried again when it is
asked for again, because a machine may have had too little memory or time for it.
"""

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from functools import partial
from math import ceil
from pathlib import Path
from typing import TextIO

from aaserve.bundle.bundle import MODEL_FILE, Bundle
from aaserve.bundle.model_input import pixels_input
from aaserve.bundle.references.probe import probe_pixels
from aaserve.service.errors import StartFailed
from aaserve.service.repository import trial_process
from aaserve.service.resources import own_path, own_python
from aaserve.service.settings import Settings

_GRACE = 5  # seconds more after which the process ends by itself, if the service could not end it
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
        self._sound: set[str] = set()  # names of trials

    @property
    def of_workers(self) -> bool:
        """Whether this process is one of several workers."""
        return self._folder is not None

    async def check(self, bundle: Bundle, settings: Settings) -> None:
        """Return if the bundle's model can be loaded and run without harm, at once if that is known.

        Raises:
            StartFailed: it crashed, or did not finish in time; one line.
            BundleError: it is no longer what the manifest says.
            OSError: no process can be started.
        """
        name = _name(bundle, settings)
        if name in self._sound:
            return
        trial = partial(try_model, bundle, settings, self._seconds)
        failure = await (_shared(self._folder / f"trial-{name}", trial) if self._folder else trial())
        if failure:
            raise StartFailed(f"{bundle.model_path}: expected a model that loads and runs in a trial, but {failure}")
        self._sound.add(name)


def _name(bundle: Bundle, settings: Settings) -> str:
    """Of a trial: its manifest names the sha256 of the model."""
    runtime = f"openvino-{settings.cpu_precision}" if settings.provider == "openvino" else "onnxruntime"
    return f"{bundle.manifest_sha256}-{runtime}"


async def _shared(path: Path, trial: Callable[[], Awaitable[str | None]]) -> str | None:
    """The verdict in a file that all workers lock; one of them makes the trial."""
    asked = time.monotonic()  # of the machine: all workers have the same
    with path.open("a+") as file:
        while not _locked(file):
            await asyncio.sleep(_POLL)
        file.seek(0)
        tried, _, verdict = file.read().partition(" ")
        if verdict == _SOUND:
            return None
        if verdict and float(tried) > asked:  # while this process waited
            return verdict
        failure = await trial()
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


async def try_model(bundle: Bundle, settings: Settings, seconds: float) -> str | None:
    """Load and run the bundle's model in a process of its own; how that ended if not well, in a few words.

    The process does not outlive this call, however it ends.

    Args:
        settings: of the model.
        seconds: that it may take.

    Raises:
        BundleError: the model is no longer what the manifest says.
        OSError: no process can be started.
    """
    message = await asyncio.to_thread(_message, bundle, settings, seconds)
    process = subprocess.Popen(
        own_python(trial_process.__name__),
        env={**os.environ, **own_path()},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the service
    )
    ended = asyncio.create_task(asyncio.to_thread(_outcome, process, message, seconds))
    try:
        return await asyncio.shield(ended)
    finally:
        process.kill()
        await asyncio.wait([ended])


def _message(bundle: Bundle, settings: Settings, seconds: float) -> bytes:
    """What the process reads: a line of JSON, the model's bytes, those of one row."""
    manifest = bundle.manifest
    model = bundle.content(MODEL_FILE)
    head = {
        "seconds": ceil(seconds) + _GRACE,
        "model_bytes": len(model),
        "provider": settings.provider,
        "cpu_precision": settings.cpu_precision,
        "input": manifest.input.name,
        "dtype": manifest.input.dtype,
        "shape": manifest.input.shape,
    }
    row = pixels_input(probe_pixels(manifest.preprocessing.crop), manifest)
    return b"".join((json.dumps(head).encode(), b"\n", model, row.tobytes()))


def _outcome(process: subprocess.Popen[bytes], message: bytes, seconds: float) -> str | None:
    with process:
        try:
            _, errors = process.communicate(message, timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return f"it did not finish within {seconds:g} s (model_load_timeout_ms)"
    number = -process.returncode
    if number > 0:
        known = number in {*signal.Signals}  # all but the real-time ones
        return f"it crashed with signal {number} ({signal.Signals(number).name if known else 'unnamed'})"
    if number:
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        return f"it could not begin: {last[:500] or f'status {process.returncode}'}"
    return None
