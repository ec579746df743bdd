"""When to stop before the end: SIGTERM, SIGINT, or the time allowed is up. Asked after each step."""

import signal
import time
from types import FrameType, TracebackType
from typing import Self

TIME_IS_UP = 75  # sysexits.h: EX_TEMPFAIL, try again


class Stop:
    """Notes signals instead of acting on them, so that the current step is finished first.

    Args:
        seconds: time allowed from now on.
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
        """Exit status if it is time to stop (128 + signal, as shells have it, or TIME_IS_UP); 0 to go on."""
        if self._signal:
            return 128 + self._signal
        return TIME_IS_UP if time.monotonic() >= self._deadline else 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
