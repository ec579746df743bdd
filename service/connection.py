"""uvicorn's HTTP connection, which also knows how long it has been silent."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

GOODBYE = 0.2  # seconds


class Connection(HttpToolsProtocol):
    """One client's connection; `last_activity` is when it was opened, sent bytes or was answered (loop time)."""

    last_activity: float

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.last_activity = self.loop.time()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self.last_activity = self.loop.time()
        super().data_received(data)

    def on_response_complete(self) -> None:
        self.last_activity = self.loop.time()
        super().on_response_complete()

    def awaits_request(self) -> bool:
        """Whether the client's turn is next: no request is being received or answered."""
        return self.cycle is None or self.cycle.response_complete

    def shutdown(self) -> None:
        super().shutdown()
        if self.scheme == "https" and self.awaits_request():
            # TLS waits for the client's goodbye, and a client that has nothing to ask reads ours only when it does.
            self.loop.call_later(GOODBYE, self.transport.abort)
