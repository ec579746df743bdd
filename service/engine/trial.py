"""Tries a model in a process of its own: if it crashes ONNX Runtime, or never comes back, only that process is lost.

a bundle --the bytes that were checked--> trial_process: load, run --> ended well | crashed | did not finish in time

On the CPU, whatever the provider: a GPU may have no memory to spare for a second copy.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from math import ceil

from aaserve.bundle.bundle import MODEL_FILE, Bundle
from aaserve.bundle.model_input import pixels_input
from aaserve.bundle.probe import probe_pixels
from aaserve.service.engine import trial_process
from aaserve.service.engine.memory_file import memory_file

_GRACE = 5  # seconds more after which the process ends by itself, if the service could not end it


async def try_model(bundle: Bundle, seconds: float) -> str | None:
    """Load and run the bundle's model in a process of its own; how that ended if not well, in a few words.

    The process does not outlive this call, however it ends.

    Args:
        seconds: that it may take.

    Raises:
        BundleError: the model is no longer what the manifest says.
        OSError: no process can be started.
    """
    trial = _Trial(bundle, seconds)
    try:
        return await asyncio.to_thread(trial.run)
    finally:
        trial.end()


class _Trial:
    """`run` in one thread, `end` in any."""

    def __init__(self, bundle: Bundle, seconds: float) -> None:
        self._bundle = bundle
        self._seconds = seconds
        self._ended = False
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> str | None:
        with memory_file(*self._message()) as file:
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", trial_process.__name__],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=file,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the service
            )
        with process:
            if self._ended:  # meanwhile
                process.kill()
            try:
                _, errors = process.communicate(timeout=self._seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                return f"it did not finish within {self._seconds:g} s (model_load_timeout_ms)"
        if process.returncode < 0:
            return f"it crashed with signal {-process.returncode} ({_signal_name(-process.returncode)})"
        if process.returncode:
            last = errors.decode(errors="replace").strip().rpartition("\n")[2]
            return f"it could not begin: {last[:500] or f'status {process.returncode}'}"
        return None

    def end(self) -> None:
        self._ended = True
        if self._process is not None:
            self._process.kill()

    def _message(self) -> tuple[bytes, ...]:
        manifest = self._bundle.manifest
        model = self._bundle.content(MODEL_FILE)
        head = {
            "seconds": ceil(self._seconds) + _GRACE,
            "model_bytes": len(model),
            "input": manifest.input.name,
            "dtype": manifest.input.dtype,
            "shape": manifest.input.shape,
        }
        row = pixels_input(probe_pixels(manifest.preprocessing.crop), manifest)
        return json.dumps(head).encode() + b"\n", model, row.tobytes()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time one
        return "unnamed"
