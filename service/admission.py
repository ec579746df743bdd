"""The door: what may be in the service at once, decided from a request's head alone.

    head --admit--> body --> decode --> queue --> model --> answer --leave-->

Everything behind the door is bounded by it, so that an overload is refused before it has cost anything. Knows nothing
of HTTP.
"""

import asyncio
from collections.abc import Callable
from math import ceil
from typing import Self

from service.errors import QueueFull, ServiceError
from service.throughput import Throughput

_MARGIN = (
    1.5  # the average of the last seconds; refusals themselves slow the service, and a late answer is work for nothing
)


class Place:
    """What one request holds between its head and its answer: one row, until it is widened."""

    __slots__ = ("_admission", "body_bytes", "rows")

    def __init__(self, admission: "Admission", body_bytes: int) -> None:
        self._admission = admission
        self.rows = 1
        self.body_bytes = body_bytes

    def __enter__(self) -> Self:
        self._admission.hold(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._admission.release(self)

    def widen(self, rows: int) -> None:
        """Hold `rows` from now on, or none more.

        Raises:
            QueueFull: they do not all fit.
        """
        self._admission.widen(self, rows)

    def move(self, admission: "Admission", *, timeout: float) -> None:
        """Hold the same in another admission from now on.

        Raises:
            QueueFull: there is no room; it stays where it is.
        """
        if admission is self._admission:
            return
        if refusal := admission.refusal(body_bytes=self.body_bytes, timeout=timeout, rows=self.rows):
            raise refusal
        self._admission.release(self)
        self._admission = admission
        admission.hold(self)


class Admission:
    """Counts rows and bytes of accepted requests.

    Args:
        max_rows: rows waiting for their body, for decoding or for the model, at most.
        max_bytes: bytes of bodies, at most; a single request is let in whatever its size.
        longest_wait: seconds after which whatever is ahead is gone, answered or not.
        computing: rows in the model at the moment; these do not wait.
        throughput: measured by whoever sees the answers.
    """

    def __init__(
        self,
        *,
        max_rows: int,
        max_bytes: int,
        longest_wait: float,
        computing: Callable[[], int],
        throughput: Throughput,
    ) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._longest_wait = longest_wait
        self._computing = computing
        self._throughput = throughput
        self._rows = 0
        self._bytes = 0
        self._vacant = asyncio.Event()
        self._vacant.set()

    def refusal(self, *, body_bytes: int, timeout: float, rows: int = 1) -> ServiceError | None:
        """Why a request would not be let in now; nothing is refused on a prediction while nothing waits.

        Args:
            body_bytes: size of its body, or as much as it may become.
            timeout: seconds it has left.
        """
        waiting = self._rows - self._computing()
        if waiting + rows > self._max_rows:
            return QueueFull(retry_after=self._retry_after())
        if self._bytes and self._bytes + body_bytes > self._max_bytes:
            return QueueFull("too many bytes are being received", retry_after=self._retry_after())
        predicted = self._throughput.seconds_for(self._rows + rows)
        if waiting > 0 and predicted is not None and predicted * _MARGIN > timeout:
            return QueueFull("what is ahead takes longer than the deadline", retry_after=self._retry_after())
        return None

    def admit(self, *, body_bytes: int, timeout: float) -> Place:
        """A place for one row, held inside its block, which is to follow at once.

        Raises:
            QueueFull: refused at once.
        """
        if refusal := self.refusal(body_bytes=body_bytes, timeout=timeout):
            raise refusal
        return Place(self, body_bytes)

    def hold(self, place: Place) -> None:
        """Count what the place holds."""
        self._rows += place.rows
        self._bytes += place.body_bytes
        self._vacant.clear()

    def release(self, place: Place) -> None:
        """Count it no more."""
        self._rows -= place.rows
        self._bytes -= place.body_bytes
        if not self._rows:
            self._vacant.set()

    async def empty(self) -> None:
        """Return when nobody is inside."""
        await self._vacant.wait()

    def widen(self, place: Place, rows: int) -> None:
        """As `Place.widen`."""
        more = rows - place.rows
        if self._rows - self._computing() + more > self._max_rows:
            raise QueueFull(f"the queue has no room for {rows} images", retry_after=self._retry_after())
        self._rows += more
        place.rows = rows

    def _retry_after(self) -> int:
        """Whole seconds until what is ahead is answered; HTTP knows no shorter unit."""
        ahead = self._throughput.seconds_for(self._rows) or 0
        return max(1, ceil(min(ahead, self._longest_wait)))
