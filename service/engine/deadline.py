"""Work that must be done by an instant of the event loop's clock."""

import asyncio
from types import TracebackType

from aaserve.service.errors import DeadlineExceeded


class within_deadline:  # noqa: N801 (reads as the statement that it is)
    """`async with within_deadline(deadline)`: run the block, or raise DeadlineExceeded where it is not done in time."""

    def __init__(self, deadline: float) -> None:
        self._timeout = asyncio.timeout_at(deadline)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise DeadlineExceeded from None
