"""A replica on one core, simulated: random arrivals, three stages that share the core as their priorities say.

arrival --> receive (event loop, FIFO) --> decode (one thread, FIFO) --> up to N rows --> model --> respond (event loop)

Assumptions: a request always costs the same work; the core divides itself without loss, by the weights that Linux gives
the niceness of service/threads.py; nobody leaves, is refused or misses a deadline.
"""

import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

LOOP, MODEL, DECODE = 1024, 335, 110  # Linux's weights of niceness 0, 5 and 10 (kernel/sched/core.c)


@dataclass(frozen=True)
class Work:
    """Seconds of one core: in the event loop (half before, half after), of decoding, of a batch by its rows."""

    http: float
    decode: float
    batches: Sequence[float]  # of 1 row, of 2, ... of max_batch_size

    def each(self, rows: int) -> float:
        """Of one request if batches have so many rows."""
        return self.http + self.decode + self.batches[rows - 1] / rows

    @property
    def capacity(self) -> float:
        """Requests per second, at most."""
        return 1 / min(self.each(rows) for rows in range(1, len(self.batches) + 1))


class Stage:
    """One thread: what it does now, and what waits for it."""

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.waiting: deque[tuple[float, list[float], bool]] = (
            deque()
        )  # seconds, arrival times, whether it ends the request
        self.left = 0.0
        self.busy: tuple[float, list[float], bool] | None = None

    def begin(self) -> None:
        if self.busy is None and self.waiting:
            self.busy = self.waiting.popleft()
            self.left = self.busy[0]


def simulate(work: Work, *, per_second: float, requests: int, seed: int) -> list[float]:
    """Seconds from arrival to answer of each request, in the order of the answers."""
    chance = random.Random(seed)
    loop, decode, model = Stage(LOOP), Stage(DECODE), Stage(MODEL)
    rows: deque[float] = deque()  # decoded, not in a batch yet
    latencies: list[float] = []
    now, arrival = 0.0, chance.expovariate(per_second)
    while len(latencies) < requests:
        active = [stage for stage in (loop, decode, model) if stage.busy]
        weights = sum(stage.weight for stage in active)
        step = min((stage.left * weights / stage.weight for stage in active), default=math.inf)
        step = min(step, arrival - now)
        now += step
        for stage in active:
            stage.left -= step * stage.weight / weights
        if now >= arrival:
            loop.waiting.append((work.http / 2, [arrival], False))
            arrival += chance.expovariate(per_second)
        for stage in active:
            if stage.left > 1e-12:
                continue
            _, arrivals, last = stage.busy or (0, [], False)
            stage.busy = None
            if stage is decode:
                rows.extend(arrivals)
            elif stage is model:
                loop.waiting.extend((work.http / 2, [one], True) for one in arrivals)
            elif last:
                latencies += [now - one for one in arrivals]
            else:
                decode.waiting.append((work.decode, arrivals, False))
        if rows and model.busy is None:  # greedy, as service/engine/batcher.py
            batch = [rows.popleft() for _ in range(min(len(rows), len(work.batches)))]
            model.waiting.append((work.batches[len(batch) - 1], batch, False))
        for stage in (loop, decode, model):
            stage.begin()
    return latencies
