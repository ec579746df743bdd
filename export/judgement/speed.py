"""How much faster is fp16 or int8 on this machine? The graphs are called in turn."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aaserve.export.graph.runtime import Graph

ROUNDS = 7
CALLS = 4  # measured calls of a graph in each turn
PAUSE = 0.05  # seconds, until the threads of the previous graph stop spinning


@dataclass(frozen=True)
class Speed:
    """Median milliseconds of a call, and the speed relative to fp32."""

    batch_size: int
    fp32_ms: float
    lowered_ms: float
    times_faster: float


def measure_speed(fp32: Graph, lowered: Graph, pixels: NDArray[np.uint8], batch_size: int) -> Speed:
    """Time both graphs on `batch_size` of the pictures `pixels` (N, H, W, 3), repeated if there are fewer."""
    batch = np.resize(pixels, (batch_size, *pixels.shape[1:]))
    seconds = take_turns({"fp32": fp32, "lowered": lowered}, batch, ROUNDS)
    # Not the median of the rounds' ratios: on a busy machine it can contradict the two times printed next to it.
    fp32_ms, lowered_ms = (round(statistics.median(seconds[name]) * 1000, 3) for name in ("fp32", "lowered"))
    return Speed(batch_size, fp32_ms, lowered_ms, times_faster=round(fp32_ms / lowered_ms, 2))


def take_turns(
    graphs: Mapping[str, Callable[[NDArray[np.uint8]], object]], batch: NDArray[np.uint8], rounds: int
) -> dict[str, list[float]]:
    """Seconds of a call in each round: the median of the calls of one turn, without the first."""
    seconds: dict[str, list[float]] = {name: [] for name in graphs}
    for turn in range(rounds + 1):
        for name, graph in graphs.items():
            time.sleep(PAUSE)
            calls = []
            for _ in range(CALLS + 1):
                started = time.perf_counter()
                graph(batch)
                calls.append(time.perf_counter() - started)
            if turn > 0:
                seconds[name].append(statistics.median(calls[1:]))
    return seconds
