"""Stops the work on an answer when the client disconnects.

    async with cancel_on_disconnect(request):     the block runs in a task that is cancelled on http.disconnect

Works under any ASGI server. The request's body must have been read: from then on, the server's next message says that
the client has gone (ASGI specification, HTTP, "Disconnect - receive event").
"""

import asyncio
from types import TracebackType

from starlette.requests import ClientDisconnect, Request


class cancel_on_disconnect:  # noqa: N801 (reads as the statement that it is)
    """Run the block and cancel it if the client disconnects.

    Raises:
        ClientDisconnect: the client disconnected before the block was done.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._disconnected = False

    async def __aenter__(self) -> None:
        working = asyncio.current_task()
        assert working is not None
        self._working = working
        self._watching = asyncio.create_task(self._watch())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watching.cancel()
        del self._watching  # a cancelled task keeps the frame that it was cancelled in, and so leads back here
        # If another cancellation is left, the task was also cancelled from elsewhere and stays cancelled.
        if kind is asyncio.CancelledError and self._disconnected and not self._working.uncancel():
            raise ClientDisconnect from None

    async def _watch(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._disconnected = True
        self._working.cancel()
