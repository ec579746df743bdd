"""Load over raw sockets: requests leave at their appointed time, whatever became of those before (open loop), or each
when the one before is answered (closed loop). Latency counts from the appointed time, so that no wait is left out.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

_CONNECT_TOGETHER = 64


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: seconds from its appointed time to the answer, status (0: the connection broke), and lateness."""

    seconds: float
    status: int
    late: float  # by how much the generator itself sent it late


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

    async def prepare(self, number: int) -> None:
        """Have `number` connections open, so that opening them is no part of what is measured."""
        while len(self._idle) < number:
            together = min(_CONNECT_TOGETHER, number - len(self._idle))
            self._idle += await asyncio.gather(*(self._connect() for _ in range(together)))

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


async def closed_loop(connections: Connections, request: bytes, *, clients: int, seconds: float) -> list[Sample]:
    """`clients` at once, each sending again as soon as it is answered."""
    end = time.monotonic() + seconds
    samples: list[Sample] = []

    async def client() -> None:
        async with connections.one() as connection:
            while (started := time.monotonic()) < end:
                status = await connection.send(request)
                samples.append(Sample(time.monotonic() - started, status, 0))

    await asyncio.gather(*(client() for _ in range(clients)))
    return samples


async def open_loop(
    connections: Connections, request: bytes, *, per_second: float, seconds: float, seed: int
) -> list[Sample]:
    """Poisson arrivals for `seconds`; returns when the last one is answered."""
    chance = random.Random(seed)
    samples: list[Sample] = []

    async def one(appointed: float) -> None:
        sent = time.monotonic()
        async with connections.one() as connection:
            status = await connection.send(request)
        samples.append(Sample(time.monotonic() - appointed, status, sent - appointed))

    start = appointed = time.monotonic()
    async with asyncio.TaskGroup() as group:
        while (appointed := appointed + chance.expovariate(per_second)) < start + seconds:
            if (wait := appointed - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            group.create_task(one(appointed))
    return samples
