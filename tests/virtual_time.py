"""An event loop whose clock advances only when nothing else can run, so that schedules are exact and take no time."""

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from aaserve.service.engine.inference_threads import InferenceThreads, Then


class _Selector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.rounds = 0

    def select(self, timeout: float | None = None) -> list:
        self.rounds += 1
        if events := super().select(0):
            return events
        assert timeout is not None, "deadlock: all tasks wait and no timer is set"
        self.now += max(timeout, 0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its seconds pass in no time."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    @property
    def rounds(self) -> int:
        """How often the loop has woken up."""
        return self._virtual.rounds

    def time(self) -> float:
        return self._virtual.now


class VirtualThreads(InferenceThreads):
    """Runs what it is given at once in the event loop's thread, and lets it take `next_duration()` seconds."""

    def __init__(self, number: int = 1, next_duration: Callable[[], float] = lambda: 0.0) -> None:
        super().__init__(number)
        self._next_duration = next_duration
        self._waiting: deque[tuple[Callable[[], Any], Then]] = deque()
        self._running = 0
        self.most_jobs = 0  # running and waiting at once

    def open(self, on_end: Callable[[BaseException], None]) -> None:
        self._loop = asyncio.get_running_loop()

    def close(self, *, wait: bool) -> None:
        assert not (wait and (self._running or self._waiting))

    def give(self, work: Callable[[], Any], then: Then) -> None:
        self._waiting.append((work, then))
        self.most_jobs = max(self.most_jobs, self._running + len(self._waiting))
        self._begin()

    def _begin(self) -> None:
        while self._waiting and self._running < self.number:
            self._running += 1
            work, then = self._waiting.popleft()
            try:
                result, failure = work(), None
            except Exception as error:
                result, failure = None, error
            self._loop.call_later(self._next_duration(), self._end, then, result, failure)

    def _end(self, then: Then, result: object, failure: Exception | None) -> None:
        self._running -= 1
        self._begin()
        then(result, failure)


def run_in_virtual_time(scenario: Callable[[VirtualLoop], Coroutine[Any, Any, Any]]) -> Any:
    """What `scenario(loop)` returns."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(scenario(loop))
    finally:
        loop.close()
