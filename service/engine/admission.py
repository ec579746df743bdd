"""Admission: how many rows may be in the service at once.

    body --admit--> decode --> queue --> model --> answer --release-->

Everything behind admission is bounded by it. `refusal` also sheds load from a request's head, before the body is read.
Slow rows are those of `/explain` and of clients whose pictures take long. They have a quarter of the places, beside one
that is computed, and are measured apart: they neither fill the queue nor make the wait of others look long.
Knows nothing of HTTP.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil

from aaserve.service.engine.client_usage import ClientUsage
from aaserve.service.engine.throughput import Throughput
from aaserve.service.errors import QueueFull, TooManyRows

# The prediction is an average of the last seconds. Refusals slow the service too, and a late answer is wasted work.
_MARGIN = 1.5
_SLOW_SHARE = 4  # one in so many places


@dataclass(eq=False, slots=True)
class _Permit:
    rows: int
    slow: bool


class Admission:
    """Counts rows of accepted requests.

    Args:
        max_rows: rows waiting for decoding or for the model, at most.
        longest_wait: seconds after which all rows now in the service are gone, answered or not.
        computing: returns the rows, slow or other ones, that the model computes at the moment; these do not wait.
        throughput: measured by the code that sees the answers.
        slow_throughput: the same, of slow rows.
    """

    def __init__(
        self,
        *,
        max_rows: int,
        longest_wait: float,
        computing: Callable[[bool], int],
        usage: ClientUsage,
        throughput: Throughput,
        slow_throughput: Throughput,
    ) -> None:
        self._max_rows = max_rows
        self._longest_wait = longest_wait
        self._computing = computing
        self._usage = usage
        self._long_decodes = 0  # seen here
        self._permits: dict[str, set[_Permit]] = {}  # by client, those that are not slow
        self._throughput = throughput
        self._slow_throughput = slow_throughput
        self._rows = 0
        self.slow_rows = 0  # of them
        self._leases = 0
        self._vacant = asyncio.Event()
        self._vacant.set()

    def refusal(self, *, timeout: float, rows: int = 1, arriving: int = 0, slow: bool = False) -> QueueFull | None:
        """Why `rows` would not be admitted now; nothing is refused on a prediction while nothing waits.

        Args:
            timeout: seconds left to answer them.
            arriving: further rows that will ask for a permit soon.
            slow: whether the rows are slow ones.
        """
        self._find_slow()
        waiting = self._rows - self._computing(False) - self._computing(True)
        if waiting + arriving + rows > self._max_rows:
            message = None if rows == 1 else f"the queue has no room for {rows} images"
            return QueueFull(message, retry_after=self._retry_after(slow))
        if slow and self.slow_rows and self.slow_rows + rows > 1 + max(1, self._max_rows // _SLOW_SHARE):
            return QueueFull(
                "the queue has no more room for /explain, nor for clients whose images take long to decode",
                retry_after=self._retry_after(slow),
            )
        held = self.slow_rows if slow else self._rows - self.slow_rows
        predicted = self._measured(slow).seconds_for(held + rows + (0 if slow else arriving))
        if held > self._computing(slow) and predicted is not None and predicted * _MARGIN > timeout:
            return QueueFull(
                "the estimated wait is longer than the request's deadline", retry_after=self._retry_after(slow)
            )
        return None

    @contextmanager
    def admit(self, *, rows: int = 1, client: str = "", timeout: float, slow: bool = False) -> Iterator[None]:
        """Hold a permit for `rows` while the block runs: for all of them, or for none.

        Raises:
            QueueFull: refused at once.
            TooManyRows: they can never be admitted together.
        """
        if rows > self._max_rows:
            raise TooManyRows(f"more than {self._max_rows} images in one request")
        if refusal := self.refusal(rows=rows, timeout=timeout, slow=slow):
            raise refusal
        self._rows += rows
        self.slow_rows += rows * slow
        permit = _Permit(rows, slow)
        if not slow:
            self._permits.setdefault(client, set()).add(permit)
        try:
            with self.lease():
                yield
        finally:
            self._rows -= rows
            self.slow_rows -= rows * permit.slow
            if not permit.slow:
                self._permits[client].discard(permit)
                if not self._permits[client]:
                    del self._permits[client]

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

    def _find_slow(self) -> None:
        """Count the rows of clients as slow that have become so since."""
        if self._long_decodes == self._usage.long_decodes:
            return
        self._long_decodes = self._usage.long_decodes
        for client in [client for client in self._permits if self._usage.is_slow(client)]:
            for permit in self._permits.pop(client):
                permit.slow = True
                self.slow_rows += permit.rows

    def _measured(self, slow: bool) -> Throughput:
        return self._slow_throughput if slow else self._throughput

    def _retry_after(self, slow: bool) -> int:
        """Whole seconds until the rows ahead are answered; HTTP knows no shorter unit."""
        ahead = self._measured(slow).seconds_for(self.slow_rows if slow else self._rows - self.slow_rows) or 0
        return max(1, ceil(min(ahead, self._longest_wait)))
