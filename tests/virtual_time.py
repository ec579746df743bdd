"""An event loop whose time passes only when nothing else can happen, so that schedules are exact and take no time."""

import asyncio
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any


class _Selector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.rounds = 0

    def select(self, timeout: float | None = None) -> list:
        self.rounds += 1
        if events := super().select(0):
            return events
        assert timeout is not None, "deadlock: everybody waits and nothing is due"
        self.now += max(timeout, 0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs what goes to an executor at once, one after the other, and lets it take `next_duration()` seconds."""

    def __init__(self, next_duration: Callable[[], float] = lambda: 0.0) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        self._next_duration = next_duration
        self._jobs: deque[tuple[asyncio.Future, Callable[[], Any]]] = deque()
        self.most_jobs = 0  # running and waiting at once

    @property
    def rounds(self) -> int:
        """How often the loop has woken up."""
        return self._virtual.rounds

    def time(self) -> float:
        return self._virtual.now

    def run_in_executor(self, executor: object, function: Callable, *arguments: Any) -> asyncio.Future:  # type: ignore[override]
        future = self.create_future()
        self._jobs.append((future, lambda: function(*arguments)))
        self.most_jobs = max(self.most_jobs, len(self._jobs))
        if len(self._jobs) == 1:
            self._begin()
        return future

    def _begin(self) -> None:
        future, job = self._jobs[0]
        try:
            result, failure = job(), None
        except Exception as error:
            result, failure = None, error
        self.call_later(self._next_duration(), self._end, future, result, failure)

    def _end(self, future: asyncio.Future, result: object, failure: Exception | None) -> None:
        self._jobs.popleft()
        if not future.done():
            future.set_exception(failure) if failure else future.set_result(result)
        if self._jobs:
            self._begin()


def run_in_virtual_time(
    scenario: Callable[[VirtualLoop], Coroutine[Any, Any, Any]], next_duration: Callable[[], float] = lambda: 0.0
) -> Any:
    """What `scenario(loop)` returns."""
    loop = VirtualLoop(next_duration)
    try:
        return loop.run_until_complete(scenario(loop))
    finally:
        loop.close()
