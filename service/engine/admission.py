"""Admission: how many rows may be in the service at once.

    body --admit--> decode --> queue --> model --> answer --release-->

Everything behind admission is bounded by it. `refusal` also sheds load from a request's head, before the body is read.
Knows nothing of HTTP.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil

from aaserve.service.engine.throughput import Throughput
from aaserve.service.errors import QueueFull, TooManyRows

# The prediction is an average of the last seconds. Refusals slow the service too, and a late answer is wasted work.
_MARGIN = 1.5


class Admission:
    """Counts rows of accepted requests.

    Args:
        max_rows: rows waiting for decoding or for the model, at most.
        longest_wait: seconds after which all rows now in the service are gone, answered or not.
        computing: returns the rows that the model computes at the moment; these do not wait.
        throughput: measured by the code that sees the answers.
    """

    def __init__(
        self,
        *,
        max_rows: int,
        longest_wait: float,
        computing: Callable[[], int],
        throughput: Throughput,
    ) -> None:
        self._max_rows = max_rows
        self._longest_wait = longest_wait
        self._computing = computing
        self._throughput = throughput
        self._rows = 0
        self._leases = 0
        self._vacant = asyncio.Event()
        self._vacant.set()

    def refusal(self, *, timeout: float, rows: int = 1, arriving: int = 0) -> QueueFull | None:
        """Why `rows` would not be admitted now; nothing is refused on a prediction while nothing waits.

        Args:
            timeout: seconds left to answer them.
            arriving: further rows that will ask for a permit soon.
        """
        waiting = self._rows - self._computing()
        if waiting + arriving + rows > self._max_rows:
            message = None if rows == 1 else f"the queue has no room for {rows} images"
            return QueueFull(message, retry_after=self._retry_after())
        predicted = self._throughput.seconds_for(self._rows + arriving + rows)
        if waiting > 0 and predicted is not None and predicted * _MARGIN > timeout:
            return QueueFull(
                "the estimated wait is longer than the request's deadline", retry_after=self._retry_after()
            )
        return None

    @contextmanager
    def admit(self, *, rows: int = 1, timeout: float) -> Iterator[None]:
        """Hold a permit for `rows` while the block runs: for all of them, or for none.

        Raises:
            QueueFull: refused at once.
            TooManyRows: they can never be admitted together.
        """
        if rows > self._max_rows:
            raise TooManyRows(f"more than {self._max_rows} images in one request")
        if refusal := self.refusal(rows=rows, timeout=timeout):
            raise refusal
        self._rows += rows
        try:
            with self.lease():
                yield
        finally:
            self._rows -= rows

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Keep the model open while the block runs; a request whose body is still to come holds no more than this."""
        self._leases += 1
        self._vacant.clear()
        try:
            yield
        finally:
            self._leases -= 1
            if not self._leases:
                self._vacant.set()

    async def empty(self) -> None:
        """Return when no request holds a permit or a lease."""
        await self._vacant.wait()

    def _retry_after(self) -> int:
        """Whole seconds until the rows ahead are answered; HTTP knows no shorter unit."""
        ahead = self._throughput.seconds_for(self._rows) or 0
        return max(1, ceil(min(ahead, self._longest_wait)))
