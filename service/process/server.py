"""uvicorn that stops without losing anybody.

SIGTERM --> readiness off --> grace: still serving --> no more connections --> all that was accepted is answered --> end
SIGHUP --> models as the repository says now, and the certificate as its files are

Load balancers learn of the readiness while the grace lasts; answers then carry `Connection: close`, so that clients who
keep connections open take their next request elsewhere. Clients that got no such answer, because the connection was
opened or last answered a moment ago, may be about to send: such a connection is closed only once it has been silent.

A worker that loads takes connections only as long as none is ready (`ConnectionCounts`).
"""

import asyncio
import logging
import signal
import socket
from contextlib import suppress
from types import FrameType

import uvicorn

from aaserve.service.process.accept import Acceptor, accept_all
from aaserve.service.process.connection import Connection
from aaserve.service.process.connection_counts import ConnectionCounts
from aaserve.service.process.supervisor import Worker
from aaserve.service.process.tls import Certificate

HANDSHAKE = 5.0  # seconds; TLS takes the client's part in it
HANDSHAKE_AT_MOST = 600.0  # seconds: `client_timeout_ms`, which `Connection` sees to, is never longer
SETTLE = 0.05  # seconds; all that a connection has already sent is read by then
SILENCE = 2.0  # seconds, at most the grace; who has been silent that long is not about to send
log = logging.getLogger("aaserve")


class Server(uvicorn.Server):
    """Serves one listening socket.

    Args:
        drain_grace: seconds between readiness off and the last connection taken.
        worker: if it is one; the end of its lifeline stops it, as if by SIGTERM.
        certificate: whose context the config has; read again on SIGHUP.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        drain_grace: float,
        worker: Worker | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        super().__init__(config)
        self._certificate = certificate
        self._drain_grace = drain_grace
        self._worker = worker
        self._balance = config.app.state.balance = worker.balance() if worker else None  # type: ignore[union-attr]
        self._joining: asyncio.Task[None] | None = None
        self._draining = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup([])  # it begins to serve, and listens to nothing
        self._listening = sockets or []
        for listening in self._listening:
            listening.setblocking(False)
        connections = self.server_state.connections.__len__
        self._acceptors = [Acceptor(each, self._welcome, connections, self._balance) for each in self._listening]
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # which the supervisor blocks until here
        if self._worker is not None and self._balance is not None:
            self._loop.add_reader(self._worker.lifeline, self._supervisor_gone)
            self._joining = asyncio.create_task(self._join(self._balance))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. SIGINT (a user waits at a terminal) and every further one: no grace."""
        if self._draining or not self.started or sig != signal.SIGTERM:
            self._drain_grace = 0
            super().handle_exit(sig, frame)
            if not self.started:
                self._give_up_starting()
            return
        self._draining = True
        self.config.app.state.lifecycle.drain()  # type: ignore[union-attr]
        self._loop.call_soon_threadsafe(self._loop.call_later, self._drain_grace, self._stop)

    def _give_up_starting(self) -> None:
        state = self.config.app.state  # type: ignore[union-attr]
        state.stopping = True
        if lifecycle := getattr(state, "lifecycle", None):
            self._loop.call_soon_threadsafe(lifecycle.stop)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.app.state.lifecycle.drain()  # type: ignore[union-attr]
        if self._worker is not None:
            self._loop.remove_reader(self._worker.lifeline)
        if self._joining is not None:
            self._joining.cancel()
        for acceptor in self._acceptors:
            acceptor.close()
        # A listening socket that is closed resets the connections that wait in it, so nothing lies between the last
        # accept and the close.
        waiting = []
        for listening in self._listening:
            waiting += accept_all(listening)
            listening.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(HANDSHAKE):
                await asyncio.gather(*map(self._welcome, waiting), return_exceptions=True)
        await asyncio.sleep(SETTLE)
        await self._silence()
        await super().shutdown([])

    async def _join(self, balance: ConnectionCounts) -> None:
        await self.config.app.state.lifecycle.started()  # type: ignore[union-attr]
        balance.ready(len(self.server_state.connections))

    async def _welcome(self, connection: socket.socket) -> None:
        """Speak HTTP with a connection, after TLS where there is a certificate."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        protocol = Connection(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        if self.config.ssl is None:
            await self._loop.connect_accepted_socket(lambda: protocol, connection)
            return
        handshake = asyncio.current_task()
        assert handshake is not None
        protocol.accepted(handshake.cancel)
        try:
            await self._loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=self.config.ssl, ssl_handshake_timeout=HANDSHAKE_AT_MOST
            )
        except BaseException:
            protocol.not_made()
            raise

    async def _silence(self) -> None:
        """Wait until no connection is recent enough to have a request in transit."""
        patience = min(SILENCE, self._drain_grace)
        end = self._loop.time() + patience
        while (now := self._loop.time()) < end and any(
            connection.awaits_request()
            and not connection.transport.is_closing()
            and connection.last_activity > now - patience
            for connection in self.server_state.connections
            if isinstance(connection, Connection)
        ):
            await asyncio.sleep(SETTLE)

    def _reload(self) -> None:
        if self._certificate is not None:
            self._certificate.renew()
        self.config.app.state.lifecycle.reload()  # type: ignore[union-attr]

    def _stop(self) -> None:
        self.should_exit = True

    def _supervisor_gone(self) -> None:
        log.error("the supervisor is gone; stopping")
        self._loop.remove_reader(self._worker.lifeline)  # type: ignore[union-attr]
        self.handle_exit(signal.SIGTERM, None)
