"""When to stop early: SIGTERM, SIGINT, or the time limit. Checked after each step."""

import signal
import time
from types import FrameType, TracebackType
from typing import Self

TIME_IS_UP = 75  # sysexits.h: EX_TEMPFAIL, try again


class Stop:
    """Record signals, so that the current step is finished first.

    Args:
        seconds: time limit from now on.
    """

    def __init__(self, seconds: float = float("inf")) -> None:
        self._deadline = time.monotonic() + seconds
        self._signal = 0

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def status(self) -> int:
        """Exit status if it is time to stop (128 + signal, as in shells, or TIME_IS_UP); 0 to continue."""
        if self._signal:
            return 128 + self._signal
        return TIME_IS_UP if time.monotonic() >= self._deadline else 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
