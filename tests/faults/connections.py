"""Kept-alive connections for clients that do more than to send load (that is benchmarks/harness/generator.py)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Connection(asyncio.Protocol):
    """A kept-alive connection that carries one request at a time."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[int] | None = None
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        transport.set_write_buffer_limits(2**24)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._received[:head_end].lower()
        start = head.find(b"content-length:") + len(b"content-length:")
        length = int(head[start:].split(b"\r\n", 1)[0])
        if len(self._received) >= head_end + 4 + length:
            status = int(self._received[9:12])
            self._received.clear()
            if b"\r\nconnection: close" in head:  # whoever sends another request here gets no answer
                self.close()
                self._transport = None
            self._finish(status)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._finish(0)

    async def send(self, request: bytes) -> int:
        """The status of the answer; 0 if the connection broke."""
        if self._transport is None:
            return 0
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    @property
    def open(self) -> bool:
        return self._transport is not None

    def close(self) -> None:
        if self._transport:
            self._transport.close()

    def _finish(self, status: int) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_result(status)


class Connections:
    """As many as are needed at once, kept for the next."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._idle: list[Connection] = []

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Connection]:
        connection = self._idle.pop() if self._idle else await self._connect()
        while not connection.open:
            connection = self._idle.pop() if self._idle else await self._connect()
        try:
            yield connection
        finally:
            if connection.open:
                self._idle.append(connection)

    def close(self) -> None:
        for connection in self._idle:
            connection.close()

    async def _connect(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(Connection, *self._address)
        return connection
