"""Notices a call that does not come back. ONNX Runtime and drivers cannot be interrupted; callers can stop waiting.

a thread:   with watching(): call --> returns
event loop: await overdue() --> only if it does not
"""

import asyncio
from contextlib import AbstractContextManager

LOOKS = 10  # at one and the same call, until it counts as hung


class _Call:
    """Entered around a call: how often it has been looked at since it was first seen."""

    __slots__ = ("_running", "looks")

    def __init__(self, running: "set[_Call]") -> None:
        self._running = running
        self.looks = -1

    def __enter__(self) -> None:
        self._running.add(self)

    def __exit__(self, *_: object) -> None:
        self._running.discard(self)


class Watchdog:
    """Watches calls in any thread; a call that returns wakes up no other thread.

    It counts its own looks instead of subtracting instants: a process that was stopped meanwhile (SIGSTOP, a machine
    that slept) has not looked, and its call has not run.

    Args:
        timeout: seconds that one call may take; it is noticed up to a tenth later.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._calls: set[_Call] = set()  # those that have not returned

    def watching(self) -> AbstractContextManager[None]:
        """Around a call, in its thread."""
        return _Call(self._calls)

    async def overdue(self) -> None:
        """Return once a call has taken longer than the timeout."""
        while all(call.looks < LOOKS for call in tuple(self._calls)):
            await asyncio.sleep(self.timeout / LOOKS)
            for call in tuple(self._calls):
                call.looks += 1
