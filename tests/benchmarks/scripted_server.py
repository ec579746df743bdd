"""A server whose reaction to each request is set by a test."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.harness.generator import post_request

REQUEST = post_request("/classify", b"picture", {"Content-Type": "image/png"})
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Server:
    """Hands each request to `answer`, which gets its connection and its number; a thread a connection."""

    def __init__(self, answer: Callable[[socket.socket, int], None]) -> None:
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._number = 0
        self._lock = threading.Lock()
        self.received: list[bytes] = []
        self.connections: list[socket.socket] = []

    @property
    def address(self) -> tuple[str, int]:
        return self._socket.getsockname()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            self.connections.append(connection)
            threading.Thread(target=self._requests, args=[connection], daemon=True).start()

    def _requests(self, connection: socket.socket) -> None:
        try:
            while request := connection.recv(65536):
                while len(request) < len(REQUEST):
                    request += connection.recv(65536)
                with self._lock:
                    self._number += 1
                    number = self._number
                    self.received.append(request)
                self._answer(connection, number)
        except OSError:
            pass

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self.connections:
            connection.close()


@contextmanager
def serving(answer: Callable[[socket.socket, int], None]) -> Iterator[Server]:
    server = Server(answer)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join(60)


def at_once(connection: socket.socket, number: int) -> None:
    connection.sendall(OK)
