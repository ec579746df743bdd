"""Stops work for callers who hung up."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import ClientDisconnect, Request


@contextmanager
def unless_client_leaves(request: Request) -> Iterator[None]:
    """Run the block in a task; the request's body must have been read.

    Raises:
        ClientDisconnect: the client closed the connection first; the block was cancelled.
    """
    working = asyncio.current_task()
    assert working is not None
    left = False

    async def watch() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left = True
        working.cancel()

    watching = asyncio.ensure_future(watch())
    try:
        yield
    except asyncio.CancelledError:
        if left and not working.uncancel():  # nobody else wanted it to end
            raise ClientDisconnect from None
        raise
    finally:
        watching.cancel()
