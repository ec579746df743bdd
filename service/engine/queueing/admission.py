"""Admission: how many rows may be in the service at once.

    body --admit--> decode --> queue --> model --> answer --release-->

Everything behind admission is bounded by it. `refusal` also sheds load from a request's head, before the body is read.
Slow rows are those of `/explain`, of `/detect` as a PNG, and of clients whose pictures take long. They have a quarter
of the places, beside one that is computed, and are measured apart: they neither fill the queue nor make the wait of
others look long.
Knows nothing of HTTP.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Self

from aaserve.service.engine.queueing.client_usage import ClientUsage
from aaserve.service.engine.queueing.throughput import Throughput
from aaserve.service.errors import QueueFull, TooManyRows

# The prediction is an average of the last seconds. Refusals slow the service too, and a late answer is wasted work.
_MARGIN = 1.5
_SLOW_SHARE = 4  # one in so many places


class Permit:
    """Counts rows, and keeps the model open, from now to `release` or the end of a `with` block."""

    __slots__ = ("_admission", "client", "rows", "slow")

    def __init__(self, admission: "Admission", rows: int, client: str, *, slow: bool) -> None:
        self._admission = admission
        self.rows = rows
        self.client = client
        self.slow = slow
        admission.begins(self)

    def release(self) -> None:
        self._admission.ends(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@dataclass(eq=False, kw_only=True)
class Admission:
    """Counts rows of accepted requests.

    Args:
        max_rows: rows waiting for decoding or for the model, at most.
        longest_wait: seconds after which all rows now in the service are gone, answered or not.
        computing: returns the rows, slow or other ones, that the model computes at the moment; these do not wait.
        throughput: measured by the code that sees the answers.
        slow_throughput: the same, of slow rows.
    """

    max_rows: int
    longest_wait: float
    computing: Callable[[bool], int]
    usage: ClientUsage
    throughput: Throughput
    slow_throughput: Throughput

    def __post_init__(self) -> None:
        self._long_decodes = 0  # seen here
        self._permits: dict[str, set[Permit]] = {}  # by client, those for rows that are not slow
        self._rows = 0
        self.slow_rows = 0  # of them
        self._held = 0
        self.arriving = 0  # rows that will ask for a permit soon: their bodies are on their way
        self._vacant = asyncio.Event()
        self._vacant.set()

    def refusal(
        self, *, timeout: float, rows: int = 1, behind_arriving: bool = False, slow: bool = False
    ) -> QueueFull | None:
        """Why `rows` would not be admitted now; nothing is refused on a prediction while nothing waits.

        Args:
            timeout: seconds left to answer them.
            behind_arriving: whether those that are arriving come first.
            slow: whether the rows are slow ones.
        """
        shortage = self._shortage(timeout, rows, self.arriving if behind_arriving else 0, slow)
        return QueueFull(shortage, retry_after=self._retry_after(slow)) if shortage else None

    def has_room(self, *, timeout: float, behind_arriving: bool, slow: bool) -> bool:
        """Whether a row would be admitted now; takes less time than to say why not."""
        return self._shortage(timeout, 1, self.arriving if behind_arriving else 0, slow) is None

    def _shortage(self, timeout: float, rows: int, arriving: int, slow: bool) -> str | None:
        if self._long_decodes != self.usage.long_decodes:
            self._find_slow()
        arriving = min(arriving, self._rows)  # bodies that never come must not keep a model idle
        excess = self._rows + arriving + rows - self.max_rows
        if excess > 0 and excess > self.computing(False) + self.computing(True):
            return QueueFull.message if rows == 1 else f"the queue has no room for {rows} images"
        if slow and self.slow_rows and self.slow_rows + rows > 1 + max(1, self.max_rows // _SLOW_SHARE):
            return (
                "the queue has no more room for /explain and drawn images, nor for clients whose images take long to "
                "decode"
            )
        held = self._held_rows(slow)
        predicted = self._measured(slow).seconds_for(held + rows + (0 if slow else arriving))
        if predicted is not None and predicted * _MARGIN > timeout and held > self.computing(slow):
            return "the estimated wait is longer than the request's deadline"
        return None

    def admit(self, *, rows: int = 1, client: str = "", timeout: float, slow: bool = False) -> "Permit":
        """A permit for `rows`: for all of them, or for none.

        Raises:
            QueueFull: refused at once.
            TooManyRows: they can never be admitted together.
        """
        if rows > self.max_rows:
            raise TooManyRows(f"more than {self.max_rows} images in one request")
        if refusal := self.refusal(rows=rows, timeout=timeout, slow=slow):
            raise refusal
        return Permit(self, rows, client, slow=slow)

    def lease(self) -> "Permit":
        """A permit for no rows, which only keeps the model open: for a request whose body is still to come."""
        return Permit(self, 0, "", slow=True)

    def begins(self, permit: Permit) -> None:
        """Count what it stands for."""
        self._held += 1
        self._vacant.clear()
        self._rows += permit.rows
        if permit.slow:
            self.slow_rows += permit.rows
        else:
            self._permits.setdefault(permit.client, set()).add(permit)

    def ends(self, permit: Permit) -> None:
        """Count it no more."""
        self._held -= 1
        if not self._held:
            self._vacant.set()
        self._rows -= permit.rows
        if permit.slow:
            self.slow_rows -= permit.rows
        else:
            permits = self._permits[permit.client]
            permits.discard(permit)
            if not permits:
                del self._permits[permit.client]

    async def empty(self) -> None:
        """Return when no request holds a permit."""
        await self._vacant.wait()

    def _find_slow(self) -> None:
        """Count the rows of clients as slow that have become so since."""
        self._long_decodes = self.usage.long_decodes
        for client in [client for client in self._permits if self.usage.is_slow(client)]:
            for permit in self._permits.pop(client):
                permit.slow = True
                self.slow_rows += permit.rows

    def _held_rows(self, slow: bool) -> int:
        return self.slow_rows if slow else self._rows - self.slow_rows

    def _measured(self, slow: bool) -> Throughput:
        return self.slow_throughput if slow else self.throughput

    def _retry_after(self, slow: bool) -> int:
        """Whole seconds until the rows ahead are answered; HTTP knows no shorter unit."""
        ahead = self._measured(slow).seconds_for(self._held_rows(slow)) or 0
        return max(1, ceil(min(ahead, self.longest_wait)))
