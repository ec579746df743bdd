"""What the service can do, decode and model together: rows answered per second while more of them waited."""

import time
from collections.abc import Callable
from math import exp

_MEMORY = 2.0  # seconds after which a measurement counts for a third
_SURPRISE = 8  # times as long as expected, and over a second: not slow unless it happens again, but stopped meanwhile
_EVIDENCE = 1.0  # seconds of work; the first batches of a burst are small and say little


class Throughput:
    """A decaying average, of busy time only: a service that has nothing to do is not slow."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rows = 0.0
        self._seconds = 0.0
        self._busy_since: float | None = None
        self._surprised = False

    def answered(self, rows: int, *, more_wait: bool) -> None:
        """A batch has been answered; the time since the one before counts if work waited all along."""
        now = self._clock()
        if self._busy_since is not None:
            self._count(rows, now - self._busy_since)
        self._busy_since = now if more_wait else None

    def seconds_for(self, rows: int) -> float | None:
        """How long `rows` take; None as long as too little has been measured to say."""
        return rows * self._seconds / self._rows if self._rows and self._seconds >= _EVIDENCE else None

    def _count(self, rows: int, seconds: float) -> None:
        surprising = seconds > max(_EVIDENCE, _SURPRISE * (self.seconds_for(max(rows, 1)) or 0))
        first_time, self._surprised = surprising and not self._surprised, surprising
        if first_time:
            return
        kept = exp(-seconds / _MEMORY)
        self._rows = self._rows * kept + rows
        self._seconds = self._seconds * kept + seconds
