"""The receive stage: request bodies on their way in, bounded in bytes and in time.

announced length fits? --> pieces, counted as they arrive --> held until the request is answered

Only bytes that have really arrived take space from other requests; bytes that a client announces and does not send take
none. A body that arrives too slowly is given up long before the request's deadline.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Self, TypeVar

from aaserve.service.engine.queueing.admission import Admission
from aaserve.service.errors import BodyTimeout, DeadlineExceeded, QueueFull

GRACE = 2.0  # seconds before a rate is asked for
MIN_BYTES_PER_SECOND = 1000
RETRY_AFTER = 1  # seconds
Upload = TypeVar("Upload")


class Receipt:
    """The bytes of one request's body.

    Args:
        announced: bytes that the body may have.
        admissions: of the models that may answer. A body of which half has come will soon need room in their queues.
    """

    def __init__(self, stage: "ReceiveStage", announced: int, admissions: Sequence[Admission]) -> None:
        self._stage = stage
        self._announced = announced
        self._admissions = admissions
        self._is_arriving = False
        self._arrived = 0
        self._started = 0.0
        self._timeout: asyncio.Timeout | None = None
        self.held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stage.bytes -= self.held

    async def received(self, read: Callable[["Receipt"], Awaitable[Upload]], deadline: float) -> Upload:
        """Return what `read` returns, which reads the body.

        Args:
            deadline: of the request, an instant of the event loop's clock.

        Raises:
            BodyTimeout: the body came slower than MIN_BYTES_PER_SECOND.
            DeadlineExceeded: it was not complete by the deadline.
        """
        loop = asyncio.get_running_loop()
        self._started = loop.time()
        self._deadline = deadline
        self._stage.bodies += 1
        try:
            async with asyncio.timeout_at(min(deadline, self._started + GRACE)) as self._timeout:
                return await read(self)
        except TimeoutError:
            # Not by the clock: a timer may be a millisecond early.
            was_deadline = self._timeout is not None and self._timeout.when() == deadline
            raise (DeadlineExceeded if was_deadline else BodyTimeout) from None
        finally:
            self._stage.bodies -= 1
            if self._is_arriving:
                self._count_arriving(-1)
            self._timeout = None

    def arrived(self, size: int) -> None:
        """Note that `size` bytes have come from the client: the more there are, the longer the rest may take."""
        self._arrived += size
        if not self._is_arriving and 2 * self._arrived >= self._announced:
            self._is_arriving = True
            self._count_arriving(1)
        if self._timeout is not None and not self._timeout.expired():
            latest = min(self._deadline, self._started + GRACE + self._arrived / MIN_BYTES_PER_SECOND)
            if latest != self._timeout.when():
                self._timeout.reschedule(latest)

    def hold(self, size: int) -> None:
        """Count `size` more bytes that stay in memory until the request is answered.

        Raises:
            QueueFull: with those of the other requests they are too many.
        """
        self._stage.check(size, own=self.held)
        self.held += size
        self._stage.bytes += size

    def _count_arriving(self, rows: int) -> None:
        for admission in self._admissions:
            admission.arriving += rows


class ReceiveStage:
    """The bodies of all requests of a process.

    Args:
        max_bytes: of all bodies in memory, at most. A single body of any size is always let in.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.bodies = 0  # being received
        self.bytes = 0  # in memory

    def check(self, size: int, *, own: int = 0) -> None:
        """Raise QueueFull if `size` bytes do not fit beside the bodies of other requests.

        Args:
            own: bytes that this request holds already.
        """
        others = self.bytes - own
        if others and self.bytes + size > self._max_bytes:
            raise QueueFull("the bodies of other requests fill the memory for bodies", retry_after=RETRY_AFTER)

    def receipt(self, announced: int, admissions: Sequence[Admission] = ()) -> Receipt:
        """A receipt for one request; on leaving, its bytes are given back."""
        return Receipt(self, announced, admissions)
