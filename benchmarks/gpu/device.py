"""The device: what it is, and time on it.

On a card, time is what passes between two events on its stream, around one call; on the CPU (the dry run) the clock's.
Always after a warm-up, and the median of many.
"""

import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

_WARM_UP = 5  # calls
_LEAST, _MOST = 5, 200  # calls that count


def open_device(device: str) -> dict[str, Any]:
    """Make everything of PyTorch's go to a stream of its own, which CUDA graphs need; what the device is.

    Raises:
        SystemExit: there is none.
    """
    facts: dict[str, Any] = {"device": device, "torch": torch.__version__}
    for package in ("onnxruntime-gpu", "onnxruntime"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    if device == "cpu":
        return {**facts, "note": "dry run on a CPU: its figures say nothing of a card"}
    if not torch.cuda.is_available():
        raise SystemExit("error: PyTorch finds no CUDA device; --device cpu is the dry run")
    torch.cuda.set_stream(torch.cuda.Stream())
    torch.backends.cudnn.allow_tf32 = False  # on by default; float32 is to mean float32 here
    card = torch.cuda.get_device_properties(0)
    return {
        **facts,
        "card": card.name,
        "card_bytes": card.total_memory,
        "multiprocessors": card.multi_processor_count,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def milliseconds(call: Callable[[], object], device: str, seconds: float) -> float:
    """Median of one call on the device, host's gaps between its kernels included."""
    for _ in range(_WARM_UP):
        call()
    once = _on_card if device == "cuda" else _by_the_clock
    taken: list[float] = []
    end = time.monotonic() + seconds
    while len(taken) < _LEAST or (len(taken) < _MOST and time.monotonic() < end):
        taken.append(once(call))
    return statistics.median(taken)


def wall_milliseconds(call: Callable[[], object], seconds: float) -> float:
    """Median by the clock, for calls that return when all is done, copies to and from the card included."""
    return milliseconds(call, "cpu", seconds)


def _on_card(call: Callable[[], object]) -> float:
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    before.record()
    call()
    after.record()
    after.synchronize()
    return before.elapsed_time(after)


def _by_the_clock(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000
