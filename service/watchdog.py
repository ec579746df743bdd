"""Notices a call that does not come back. ONNX Runtime and drivers cannot be interrupted; whoever waits can give up.

model's thread: with watching(): call --> returns
event loop:     await overdue() --> only if it does not
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

LOOKS = 10  # at one and the same call, until it counts as hung


class Watchdog:
    """Watches one thread's calls; nobody is woken for a call that returns.

    It counts its own looks instead of subtracting instants: a process that was stopped meanwhile (SIGSTOP, a machine
    that slept) has not looked, and its call has not run.

    Args:
        timeout: seconds that one call may take; it is noticed up to a tenth later.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._begun = 0
        self._ended = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Around a call, in its thread."""
        self._begun += 1
        try:
            yield
        finally:
            self._ended += 1

    async def overdue(self) -> None:
        """Return once a call has taken longer than the timeout."""
        looks, seen = 0, 0
        while looks < LOOKS:
            await asyncio.sleep(self.timeout / LOOKS)
            looks = looks + 1 if self._begun > self._ended and self._begun == seen else 0
            seen = self._begun
