"""HTTP load from one thread. Requests are prepared bytes; of answers only the status and the end are parsed.

closed_loop   a number of clients; each sends its next request after an answer
open_loop     requests leave at scheduled times (Poisson), independent of earlier ones

It shares the machine with the server, so its own cost matters: a request creates no object but its sample, and there is
no event loop between epoll and the socket. benchmarks/NOTES.md compares the cost with other generators.
"""

import errno
import gc
import random
import re
import resource
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import numpy as np

from benchmarks.harness.samples import NO_ANSWER, Samples

Address = tuple[str, int]
_IN, _OUT, _BOTH = select.EPOLLIN, select.EPOLLOUT, select.EPOLLIN | select.EPOLLOUT
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_CHUNK = re.compile(rb"([0-9a-fA-F]+)[^\r\n]*\r\n")


class _Connection:
    """A connection with one request at a time."""

    __slots__ = ("appointed", "received", "sent", "socket", "unsent")

    def __init__(self, address: Address) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.appointed = self.sent = 0.0  # 0: no request in flight
        self.received = b""
        self.unsent: bytes | memoryview = b""
        if (error := self.socket.connect_ex(address)) not in (0, errno.EINPROGRESS):
            raise OSError(error, f"{address[0]}:{address[1]}: {errno.errorcode[error]}")


class Generator:
    """Load on `addresses`, with connections spread over them in turn and `requests` in rotation.

    Args:
        patience: seconds to wait for answers after the last request was sent.

    Raises:
        ConnectionRefusedError: from both loops, if no server listens (any more).
    """

    def __init__(self, addresses: Sequence[Address], requests: Sequence[bytes], *, patience: float = 30) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._addresses = deque(addresses)
        self._requests = deque(requests)
        self._patience = patience
        self._epoll = select.epoll()
        self._connections: dict[int, _Connection] = {}
        self._idle: list[_Connection] = []
        self._under_way = 0
        self._samples: list[tuple[float, float, float, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections.values():
            connection.socket.close()
        self._epoll.close()

    def prepare(self, connections: int) -> None:
        """Open connections in advance, so that opening them is not measured."""
        while len(self._idle) < connections:
            self._idle.append(self._connect())

    def closed_loop(self, *, clients: int, seconds: float) -> Samples:
        """Run `clients` concurrently for `seconds`; return after the last answer.

        With fewer clients than before, the oldest connections are used: the most recently answered ones may all belong
        to one of several processes.
        """

        def again(connection: _Connection | None) -> None:
            now = time.monotonic()
            if now < end:
                self._send(connection or self._connect(), now, now)
            elif connection:
                self._idle.append(connection)

        def load(start: float) -> None:
            nonlocal end
            end = start + seconds
            self._idle = [one for one in reversed(self._connections.values()) if not one.sent]
            for _ in range(clients):
                again(self._idle.pop() if self._idle else None)
            self._take_the_last(end, again)

        end = 0.0
        return self._run(load, seconds)

    def open_loop(self, *, per_second: float, seconds: float, seed: int) -> Samples:
        """Poisson arrivals for `seconds`, on as many connections as needed; return after the last answer."""
        chance = random.Random(seed)

        def idle(connection: _Connection | None) -> None:
            if connection:
                self._idle.append(connection)

        def load(start: float) -> None:
            end, appointed = start + seconds, start + chance.expovariate(per_second)
            while appointed < end:
                while appointed < end and appointed <= (now := time.monotonic()):
                    self._send(self._idle.pop() if self._idle else self._connect(), appointed, now)
                    appointed += chance.expovariate(per_second)
                # select waits to the microsecond; epoll's own timeout is rounded up to the millisecond
                wait = min(appointed, end) - time.monotonic()
                if wait <= 0 or select.select([self._epoll], [], [], wait)[0]:
                    self._take_answers(0, idle)
            self._take_the_last(end, idle)

        return self._run(load, seconds)

    def _run(self, load: Callable[[float], None], seconds: float) -> Samples:
        """Run `load`, which gets its start time."""
        self._samples = []
        self._drop_closed()
        gc.collect()
        gc.disable()  # it would scan all samples repeatedly and stall the load
        began, processor = time.monotonic(), time.process_time()
        try:
            load(began)
        finally:
            gc.enable()
        now = time.monotonic()
        for connection in [one for one in self._connections.values() if one.sent]:
            self._end(connection, NO_ANSWER, now)
            self._drop(connection)
        columns = zip(*self._samples, strict=True) if self._samples else ((), (), (), ())
        appointed, taken, late, status = (np.array(column) for column in columns)
        return Samples(appointed, taken, late, status.astype(int), began, seconds, time.process_time() - processor)

    def _connect(self) -> _Connection:
        connection = _Connection(self._addresses[0])
        self._addresses.rotate(-1)
        self._connections[connection.socket.fileno()] = connection
        self._epoll.register(connection.socket, _IN)
        return connection

    def _send(self, connection: _Connection, appointed: float, now: float) -> None:
        request = self._requests[0]
        self._requests.rotate(-1)
        connection.appointed, connection.sent, connection.received = appointed, now, b""
        self._under_way += 1
        if connection.unsent:  # the previous request was answered before its body was sent
            connection.unsent = b"".join((connection.unsent, request))
            return
        try:
            sent = connection.socket.send(request)
        except BlockingIOError:  # not connected yet
            sent = 0
        except (BrokenPipeError, ConnectionResetError):
            return  # epoll reports it too
        if sent < len(request):
            connection.unsent = memoryview(request)[sent:]
            self._epoll.modify(connection.socket, _BOTH)

    def _send_rest(self, connection: _Connection) -> None:
        try:
            sent = connection.socket.send(connection.unsent)
        except BlockingIOError:
            return
        connection.unsent = connection.unsent[sent:]
        if not connection.unsent:
            self._epoll.modify(connection.socket, _IN)

    def _take_the_last(self, end: float, then: Callable[[_Connection | None], None]) -> None:
        while self._under_way and (left := end + self._patience - time.monotonic()) > 0:
            self._take_answers(left, then)

    def _take_answers(self, timeout: float, then: Callable[[_Connection | None], None]) -> None:
        """Read available data. `then` gets the connection of each finished request, or None if it was closed."""
        for number, event in self._epoll.poll(timeout):
            connection = self._connections[number]
            try:
                if event & _OUT and connection.unsent:
                    self._send_rest(connection)
                if not event & ~_OUT:
                    continue
                data = connection.socket.recv(65536)
            except BlockingIOError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                data = b""
            now = time.monotonic()
            received = connection.received = connection.received + data if connection.received else data
            if not connection.sent:  # closed between two requests, or data after an answer
                self._idle.remove(connection)
                self._drop(connection)
            elif data and (closes := _ended(received)) is not None:
                self._end(connection, int(received[9:12]), now)
                if closes:
                    self._drop(connection)
                then(None if closes else connection)
            elif not data:
                ended = received.startswith(b"HTTP/") and _ended_by_closing(received)
                self._end(connection, int(received[9:12]) if ended else NO_ANSWER, now)
                self._drop(connection)
                then(None)

    def _end(self, connection: _Connection, status: int, now: float) -> None:
        appointed, sent = connection.appointed, connection.sent
        self._samples.append((appointed, now - appointed, sent - appointed, status))
        connection.sent = 0.0
        self._under_way -= 1

    def _drop_closed(self) -> None:
        """Drop connections that the server has closed: clients check before they send again."""
        self._take_answers(0, lambda _: None)

    def _drop(self, connection: _Connection) -> None:
        del self._connections[connection.socket.fileno()]
        connection.socket.close()


def post_request(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """The bytes of a request."""
    lines = [f"POST {path} HTTP/1.1", "Host: benchmark", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "\r\n"]).encode() + body


def _ended(answer: bytes) -> bool | None:
    """True if the server closes the connection after this answer; None if the answer is incomplete."""
    body = answer.find(b"\r\n\r\n") + 4
    if body == 3:
        return None
    if found := _LENGTH.search(answer, 0, body):
        complete = len(answer) >= body + int(found[1])
    else:
        complete = bool(_CHUNKED.search(answer, 0, body)) and _last_chunk_came(answer, body)
    return bool(_CLOSES.search(answer, 0, body)) if complete else None


def _last_chunk_came(answer: bytes, start: int) -> bool:
    while found := _CHUNK.match(answer, start):
        if not (length := int(found[1], 16)):
            return answer.endswith(b"\r\n\r\n")  # of the trailer
        start = found.end() + length + 2
    return False


def _ended_by_closing(answer: bytes) -> bool:
    """True if there is neither a length nor chunks, so that closing the connection ends the answer (HTTP/1.0)."""
    head, found, _ = answer.partition(b"\r\n\r\n")
    return bool(found) and not _LENGTH.search(head) and not _CHUNKED.search(head)
