"""The inference threads of one model: each runs the work it is given and reports the outcome to the event loop."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from aaserve.service.threads import INFERENCE, OnEnd, lower_priority, start

Then = Callable[[Any, Exception | None], None]


class InferenceThreads:
    """`number` threads; work beyond that waits, and is begun in the order in which it was given."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._work: SimpleQueue[tuple[Callable[[], Any], Then] | None] = SimpleQueue()

    def open(self, on_end: OnEnd) -> None:
        """Start the threads; belongs to the event loop that `then` is called in.

        A thread that ends by itself leaves work undone: `on_end(error)` is called in the event loop.
        """
        loop = self._loop = asyncio.get_running_loop()

        def tell(error: BaseException) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(on_end, error)

        # A call that hangs must not keep the process that has given it up: daemons. All others are waited for.
        self._threads: list[threading.Thread] = []
        for number in range(self.number):
            self._threads.append(start(f"inference_{number}", self._live, tell))

    def give(self, work: Callable[[], Any], then: Then) -> None:
        """Have `work()` done in a thread; then, in the event loop, `then(result, None)` or `then(None, error)`."""
        self._work.put((work, then))

    def close(self, *, wait: bool) -> None:
        """End the threads once they have done what they were given; a thread that hangs is not to be waited for."""
        for _ in self._threads:
            self._work.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _live(self) -> None:
        lower_priority(INFERENCE)
        while job := self._work.get():
            work, then = job
            outcome = _outcome(work)
            with suppress(RuntimeError):  # the loop is closed: the caller has given this thread up
                self._loop.call_soon_threadsafe(then, *outcome)
            del job, work, then, outcome  # nothing is kept alive by a thread that waits


def _outcome(work: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return work(), None
    except Exception as error:
        return None, error
