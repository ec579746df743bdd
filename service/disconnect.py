"""Stops the work on an answer when the client disconnects.

    async with cancel_on_disconnect(request):     the block runs in a task that is cancelled on http.disconnect

Works under any ASGI server. The request's body must have been read: from then on, the server's next message says that
the client has gone (ASGI specification, HTTP, "Disconnect - receive event").
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request


@asynccontextmanager
async def cancel_on_disconnect(request: Request) -> AsyncIterator[None]:
    """Run the block and cancel it if the client disconnects.

    Raises:
        ClientDisconnect: the client disconnected before the block was done.
    """
    working = asyncio.current_task()
    assert working is not None
    disconnected = False

    async def watch() -> None:
        nonlocal disconnected
        while (await request.receive())["type"] != "http.disconnect":
            pass
        disconnected = True
        working.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if disconnected and not working.uncancel():
            raise ClientDisconnect from None
        raise  # cancelled by someone else, too
    finally:
        watching.cancel()
