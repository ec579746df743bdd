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
    message = await asyncio.to_thread(_message, bundle, seconds)
    process = subprocess.Popen(
        [sys.executable, "-m", trial_process.__name__],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the service
    )
    try:
        return await asyncio.to_thread(_outcome, process, message, seconds)
    finally:
        process.kill()


def _message(bundle: Bundle, seconds: float) -> bytes:
    """What the process reads: a line of JSON, the model's bytes, those of one row."""
    manifest = bundle.manifest
    model = bundle.content(MODEL_FILE)
    head = {
        "seconds": ceil(seconds) + _GRACE,
        "model_bytes": len(model),
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
    if process.returncode < 0:
        return f"it crashed with signal {-process.returncode} ({_signal_name(-process.returncode)})"
    if process.returncode:
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        return f"it could not begin: {last[:500] or f'status {process.returncode}'}"
    return None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time one
        return "unnamed"
