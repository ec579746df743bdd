"""One connection in this process: a client that does not read, and one that sends far ahead."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from aaserve.service.observability.metrics import Metrics
from aaserve.service.process.connection import Connection
from aaserve.service.process.connection_limit import ConnectionLimit, Guest
from aaserve.service.settings import Settings

REQUESTS = 2000
LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


class CountsHeads(ConnectionLimit):
    """Counts the heads of requests, which each make their connection busy."""

    heads = 0

    def works(self, guest: Guest) -> None:
        self.heads += 1
        super().works(guest)


def run(
    loop: Callable[[], asyncio.AbstractEventLoop],
    app: Starlette,
    client: Callable[[socket.socket, ServerState], Any],
    room: ConnectionLimit | None = None,
    **settings: int,
) -> None:
    """Let `client` use a connection whose kernel buffers are small."""
    app.state.settings, app.state.metrics = Settings(_cli_parse_args=[], **settings), Metrics()
    app.state.room = room or ConnectionLimit(10)

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            for each in (ours, theirs):
                each.setblocking(False)
                each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            config, state = uvicorn.Config(app, lifespan="off", log_config=None, timeout_keep_alive=60), ServerState()
            await asyncio.get_running_loop().connect_accepted_socket(lambda: Connection(config, state, {}), ours)
            assert state.connections
            async with asyncio.timeout(60):
                await client(theirs, state)
            for connection in list(state.connections):
                connection.transport.abort()
            await asyncio.gather(*state.tasks, return_exceptions=True)
            await asyncio.sleep(0.01)  # the transport closes its socket

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


@LOOPS
@pytest.mark.parametrize("header", [b"Connection: close\r\n", b""], ids=["closed", "kept"])
def test_a_connection_whose_client_does_not_read_ends_in_time(
    loop: Callable[[], asyncio.AbstractEventLoop], header: bytes
) -> None:
    """With fewer bytes unsent than the event loop would ever mention, so that no write has to wait."""

    async def some(_: Request) -> Response:
        return Response(bytes(40_000))

    async def silent(client: socket.socket, state: ServerState) -> None:
        await asyncio.get_running_loop().sock_sendall(client, b"GET / HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n")
        while state.connections:
            await asyncio.sleep(0.02)

    run(loop, Starlette(routes=[Route("/", some)]), silent, client_timeout_ms=200)


@LOOPS
def test_the_head_of_an_answer_is_sent_with_the_first_piece_of_its_body(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    before_the_body, clients = [], list[socket.socket]()

    class InPieces(Response):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
            with suppress(BlockingIOError):
                before_the_body.append(clients[0].recv(1000))
            await send({"type": "http.response.body", "body": b"he", "more_body": True})
            await send({"type": "http.response.body", "body": memoryview(b"re")})

    async def answer(_: Request) -> Response:
        return InPieces()

    async def ask(client: socket.socket, state: ServerState) -> None:
        clients.append(client)
        running = asyncio.get_running_loop()
        for method, body in ((b"GET", b"here"), (b"HEAD", b"")):
            await running.sock_sendall(client, method + b" / HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b""
            while not received.endswith(b"\r\n\r\n" + body):
                received += await running.sock_recv(client, 1000)
            assert received.startswith(b"HTTP/1.1 200 OK\r\n")

    run(loop, Starlette(routes=[Route("/", answer)]), ask)
    assert before_the_body == []


@LOOPS
def test_a_client_that_waits_for_100_continue_gets_it_at_once(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def echo(request: Request) -> Response:
        return Response(await request.body())

    async def waits(client: socket.socket, state: ServerState) -> None:
        running = asyncio.get_running_loop()
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        await running.sock_sendall(client, head)
        assert await running.sock_recv(client, 1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        await running.sock_sendall(client, b"here")
        assert (await running.sock_recv(client, 1000)).endswith(b"\r\n\r\nhere")

    run(loop, Starlette(routes=[Route("/", echo, methods=["POST"])]), waits)


@LOOPS
def test_no_request_is_parsed_while_another_is_answered(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    answer, counts = asyncio.Event(), CountsHeads(10)

    async def held(_: Request) -> Response:
        await answer.wait()
        return Response()

    async def far_ahead(client: socket.socket, state: ServerState) -> None:
        running = asyncio.get_running_loop()
        sending = running.create_task(running.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * REQUESTS))
        await asyncio.wait([sending], timeout=0.3)
        assert not sending.done()  # most of it is not even read
        assert counts.heads == 1
        answer.set()
        content = b""
        while content.count(b"HTTP/1.1 200") < REQUESTS:
            content += await running.sock_recv(client, 65_536)
        assert counts.heads == REQUESTS

    run(loop, Starlette(routes=[Route("/", held)]), far_ahead, counts)
