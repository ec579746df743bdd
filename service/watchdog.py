"""Notices a call that does not come back. ONNX Runtime and drivers cannot be interrupted; whoever waits can give up.

a lane:     with watching(): call --> returns
event loop: await overdue() --> only if it does not
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

LOOKS = 10  # at one and the same call, until it counts as hung


class _Call:
    """One call, and how often it has been looked at since it was first seen."""

    __slots__ = ("looks",)

    def __init__(self) -> None:
        self.looks = -1


class Watchdog:
    """Watches calls, in whatever thread; nobody is woken for a call that returns.

    It counts its own looks instead of subtracting instants: a process that was stopped meanwhile (SIGSTOP, a machine
    that slept) has not looked, and its call has not run.

    Args:
        timeout: seconds that one call may take; it is noticed up to a tenth later.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._calls: set[_Call] = set()  # those that have not returned

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Around a call, in its thread."""
        call = _Call()
        self._calls.add(call)
        try:
            yield
        finally:
            self._calls.discard(call)

    async def overdue(self) -> None:
        """Return once a call has taken longer than the timeout."""
        while all(call.looks < LOOKS for call in tuple(self._calls)):
            await asyncio.sleep(self.timeout / LOOKS)
            for call in tuple(self._calls):
                call.looks += 1
