"""Bounded threads for decoding, so that neither the event loop nor memory is at a client's mercy."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from aaserve.service.errors import DeadlineExceeded
from aaserve.service.threads import DECODING, OnEnd, ended, lower_priority

Result = TypeVar("Result")


class CpuPool:
    """Runs blocking functions in `threads` threads. How many may wait is bounded by each model's `Admission`.

    Args:
        on_end: called in a thread that cannot begin, after which none of them runs anything.
    """

    def __init__(self, threads: int, on_end: OnEnd = lambda error: None) -> None:
        def begin() -> None:
            try:
                lower_priority(DECODING)
            except BaseException as error:
                ended("decode", error)
                on_end(error)
                raise

        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="decode", initializer=begin)
        self._threads = threads
        self._admitted = 0

    @property
    def waiting(self) -> int:
        """Calls that wait for a thread."""
        return max(0, self._admitted - self._threads)

    async def run(self, function: Callable[[], Result], *, deadline: float) -> Result:
        """Return `function()`; `deadline` is an instant of the event loop's clock.

        Raises:
            DeadlineExceeded: no result in time; a call that has not begun never will.
        """
        future = self._executor.submit(function)
        self._admitted += 1
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._release))
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise DeadlineExceeded from None

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)

    def _release(self) -> None:
        self._admitted -= 1
