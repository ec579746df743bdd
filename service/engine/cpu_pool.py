"""Bounded threads for decoding, so that neither the event loop nor memory is at a client's mercy.

run(function) --> queue, by client --> threads; of several, one is kept free of what clients with slow pictures ask
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from aaserve.service.engine.queueing.client_usage import ClientUsage
from aaserve.service.engine.queueing.fair_queue import FairQueue
from aaserve.service.errors import DeadlineExceeded
from aaserve.service.threads import DECODING, OnEnd, ended, lower_priority

Result = TypeVar("Result")


class _Call:
    """A function that waits for a thread, or runs in one."""

    def __init__(self, function: Callable[[], Any], client: str, loop: asyncio.AbstractEventLoop) -> None:
        self.client = client
        self.enqueued = loop.time()
        self.answer: asyncio.Future[Any] = loop.create_future()
        self.running: Future[Any] | None = None
        self.slow = False
        self.cpu_seconds = 0.0
        self._function = function

    def work(self) -> Any:
        started = time.thread_time()
        try:
            return self._function()
        finally:
            self.cpu_seconds = time.thread_time() - started


class CpuPool:
    """Runs blocking functions in `threads` threads. How many may wait is bounded by each model's `Admission`.

    One call is given to the threads ahead of time, so that none has to wait for the event loop.

    Args:
        usage: of all clients; decides whose calls go first, and learns how long they take.
        on_end: called in a thread that cannot begin, after which none of them runs anything.
    """

    def __init__(self, threads: int, usage: ClientUsage, on_end: OnEnd = lambda error: None) -> None:
        def begin() -> None:
            try:
                lower_priority(DECODING)
            except BaseException as error:
                ended("decode", error)
                on_end(error)
                raise

        self.usage = usage
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="decode", initializer=begin)
        self._threads = threads
        self._queue: FairQueue[_Call] = FairQueue(usage)
        self._given: set[_Call] = set()

    @property
    def waiting(self) -> int:
        """Calls that wait for a thread."""
        return len(self._queue) + max(0, len(self._given) - self._threads)

    async def run(self, function: Callable[[], Result], *, client: str = "", deadline: float) -> Result:
        """Return `function()`.

        Args:
            client: who asked for it.
            deadline: an instant of the event loop's clock.

        Raises:
            DeadlineExceeded: no result in time; a call that has not begun never will.
        """
        call = _Call(function, client, asyncio.get_running_loop())
        self.usage.seen(client)
        self._queue.add(call)
        self._hand_out()
        try:
            async with asyncio.timeout_at(deadline):
                result: Result = await call.answer
                return result
        except TimeoutError:
            raise DeadlineExceeded from None
        finally:
            if call in self._queue:
                self._queue.remove(call)
            elif call.running is not None:
                call.running.cancel()

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)

    def _hand_out(self) -> None:
        while len(self._given) <= self._threads:
            slow_allowed = len(self._given) < self._threads and (
                sum(call.slow for call in self._given) < max(1, self._threads - 1)
            )
            call = self._queue.next(slow=slow_allowed)
            if call is None:
                return
            self._queue.remove(call)
            call.slow = self._queue.is_slow(call.client)
            try:
                call.running = self._executor.submit(call.work)
            except RuntimeError as error:  # the threads have ended
                call.answer.set_exception(error)
                continue
            self._given.add(call)
            call.running.add_done_callback(partial(self._tell, asyncio.get_running_loop(), call))

    def _tell(self, loop: asyncio.AbstractEventLoop, call: _Call, done: Future[Any]) -> None:
        with suppress(RuntimeError):  # the loop is closed, so the caller is gone
            loop.call_soon_threadsafe(self._ended, call, done)

    def _ended(self, call: _Call, done: "Future[Any]") -> None:
        self._given.remove(call)
        call.running = None  # its callbacks refer to the call: a cycle that would keep what the call has read
        self.usage.add(call.client, call.cpu_seconds)
        if not call.answer.done():
            if done.cancelled():
                call.answer.cancel()
            elif error := done.exception():
                call.answer.set_exception(error)
            else:
                call.answer.set_result(done.result())
        self._hand_out()
