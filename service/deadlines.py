"""Work that must be done by an instant of the event loop's clock."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.errors import DeadlineExceeded


@asynccontextmanager
async def until(deadline: float) -> AsyncIterator[None]:
    """Run the block, or raise DeadlineExceeded where it is not done in time."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise DeadlineExceeded from None
