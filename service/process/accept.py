"""Takes connections from a listening socket, one in each turn of the event loop, and leaves some to other workers.

The event loop's own server takes all that wait at once. Where several processes share a socket, the first to wake up
would have them all, and it is mostly the one that was awake last: of eight connections one of two workers had eight.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from aaserve.service.process.connection_counts import ConnectionCounts

PATIENCE = 0.005  # seconds in which a worker with fewer connections may take the next one
PAUSE = 1.0  # seconds without a connection where there is nothing to have it with
_NO_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
log = logging.getLogger("aaserve")


@dataclass(eq=False)
class Acceptor:
    """Accepts until it is closed.

    Args:
        listening: a socket that does not block; closing it is for others.
        welcome: goes on with a connection.
        connections: how many there are.
        balance: of the workers, if there are several.
    """

    listening: socket.socket
    welcome: Callable[[socket.socket], Coroutine[Any, Any, object]]
    connections: Callable[[], int]
    balance: ConnectionCounts | None

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._welcoming: set[asyncio.Task[None]] = set()
        self._resting: asyncio.TimerHandle | None = None
        self._watch()

    def close(self) -> None:
        """Take no more; those that are taken go on."""
        self._loop.remove_reader(self.listening)
        if self._resting is not None:
            self._resting.cancel()
        if self.balance is not None:
            self.balance.leave()

    def _watch(self) -> None:
        self._loop.add_reader(self.listening, self._on_waiting)

    def _on_waiting(self) -> None:
        if self.balance is not None and self.balance.others_have_fewer(self.connections() + len(self._welcoming)):
            self._rest(PATIENCE)
        else:
            self._accept()

    def _rest(self, seconds: float) -> None:
        self._loop.remove_reader(self.listening)
        self._resting = self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._watch()
        if self.balance is None or self.balance.may_take():
            self._accept()  # if no other worker has taken it

    def _accept(self) -> None:
        try:
            connection, _ = self.listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):  # another worker was first; it has left
            return
        except OSError as error:
            if error.errno not in _NO_RESOURCES:
                raise
            log.error("no connection can be taken for %g s: %s", PAUSE, error)
            self._rest(PAUSE)
            return
        task = self._loop.create_task(self._greet(connection))
        self._welcoming.add(task)
        task.add_done_callback(self._welcoming.discard)

    async def _greet(self, connection: socket.socket) -> None:
        try:
            await self.welcome(connection)
        except OSError:  # it has left, or failed at TLS; other connections go on
            connection.close()


def accept_all(listening: socket.socket) -> list[socket.socket]:
    """Those that wait at a socket that does not block."""
    connections = []
    while True:
        try:
            connections.append(listening.accept()[0])
        except ConnectionAbortedError:
            continue
        except BlockingIOError:
            return connections
