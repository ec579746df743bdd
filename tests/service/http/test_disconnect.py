"""Work stops when its client disconnects."""

import asyncio
import gc
import socket
import struct
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

import pytest
from prometheus_client import generate_latest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from aaserve.service.http.disconnect import cancel_on_disconnect
from aaserve.service.http.observation import Observation, Observer
from aaserve.service.observability.metrics import Metrics
from aaserve.service.settings import Settings
from tests.helpers import served, wait_until


class App:
    """What `Observation` asks of an application."""

    class state:  # noqa: N801
        class lifecycle:  # noqa: N801
            closes_connections = False


class Client:
    """What the server tells an application of a client that may disconnect."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.request = Request({"type": "http"}, self._receive)

    async def _receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}


def test_the_block_is_cancelled_when_the_client_disconnects() -> None:
    async def scenario() -> None:
        client = Client()
        asyncio.get_running_loop().call_soon(client.gone.set)
        with pytest.raises(ClientDisconnect):
            async with cancel_on_disconnect(client.request):
                await asyncio.Event().wait()

    asyncio.run(scenario())


def test_a_client_that_disconnects_after_the_block_cancels_nothing() -> None:
    async def scenario() -> None:
        client = Client()
        async with cancel_on_disconnect(client.request):
            await asyncio.sleep(0)
        client.gone.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(scenario())


def test_a_request_leaves_nothing_to_the_garbage_collector() -> None:
    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def scenario() -> None:
        request = Request({"type": "http"}, receive)
        async with cancel_on_disconnect(request):
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        left = weakref.ref(request)
        del request
        assert left() is None

    gc.disable()
    try:
        asyncio.run(scenario())
    finally:
        gc.enable()


def test_a_task_that_is_cancelled_from_elsewhere_stays_cancelled() -> None:
    async def scenario() -> None:
        client = Client()

        async def work() -> None:
            async with cancel_on_disconnect(client.request):
                await asyncio.Event().wait()

        working = asyncio.ensure_future(work())
        await asyncio.sleep(0)
        working.cancel()
        client.gone.set()
        with pytest.raises(asyncio.CancelledError):
            await working

    asyncio.run(scenario())


@contextmanager
def holding() -> Iterator[tuple[socket.socket, Event, list[str]]]:
    """A connection whose request is being answered, the event that ends that, and what became of requests."""
    answer, ended = Event(), list[str]()

    async def held(request: Request) -> Response:
        await request.body()
        ended.append("begun")
        try:
            async with cancel_on_disconnect(request):
                while not answer.is_set():  # set by another thread
                    await asyncio.sleep(0.01)
        except ClientDisconnect:
            ended.append("left")
            raise
        return PlainTextResponse("here you are", headers={"X-A": "b"})

    async def ignore(request: Request, error: Exception) -> Response:
        return Response()

    app = Starlette(routes=[Route("/", held, methods=["POST"])], exception_handlers={ClientDisconnect: ignore})
    app.state.settings, app.state.metrics = Settings(_cli_parse_args=[]), Metrics()
    with (
        served(app) as (client, _),
        socket.create_connection((client.base_url.host, client.base_url.port), 60) as asking,
    ):
        asking.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
        wait_until(lambda: ended)
        yield asking, answer, ended


def test_a_client_that_shuts_down_its_side_while_it_waits_gets_the_whole_answer_and_the_end() -> None:
    with holding() as (asking, answer, ended):
        asking.shutdown(socket.SHUT_WR)
        content = asking.recv(9)  # comes before there is an answer: it finds out whether the client is still there
        assert content == b"HTTP/1.1 "
        answer.set()
        while piece := asking.recv(65536):
            content += piece
    assert content.startswith(b"HTTP/1.1 200 OK\r\n")
    assert content.count(b"HTTP/1.1") == 1
    assert content.endswith(b"\r\nconnection: close\r\n\r\nhere you are")
    assert ended == ["begun"]


@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
def test_a_client_that_leaves_while_it_waits_is_noticed(reset: bool) -> None:
    with holding() as (asking, _, ended):
        if reset:
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        asking.close()
        wait_until(lambda: ended == ["begun", "left"])


def test_a_client_that_leaves_after_it_has_shut_down_its_side_is_noticed() -> None:
    with holding() as (asking, _, ended):
        asking.shutdown(socket.SHUT_WR)
        assert asking.recv(9)
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        asking.close()
        wait_until(lambda: ended == ["begun", "left"])


def test_an_error_after_the_client_has_left_is_no_error_of_the_service(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.disconnect"
        raise RuntimeError("any error")

    async def gone() -> Message:
        return {"type": "http.disconnect"}

    async def unused(*_: object) -> None:
        pytest.fail("the client is gone, so no answer may be sent")

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    asyncio.run(Observation(failing, Observer(metrics))(scope, gone, unused))  # type: ignore[arg-type]
    counted = generate_latest(metrics.registry).decode()
    assert 'aaserve_requests_total{code="499"' in counted
    assert 'aaserve_rejected_total{reason="disconnected"} 1.0' in counted
    assert 'code="500"' not in counted
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("body_is_read", [False, True])
def test_a_server_whose_receive_fails_has_lost_the_client(
    caplog: pytest.LogCaptureFixture, *, body_is_read: bool
) -> None:
    """As with Ray's proxies; Starlette's own error handling is around the route."""

    async def scenario(metrics: Metrics) -> None:
        async def answer(request: Request) -> Response:
            await request.body()
            async with cancel_on_disconnect(request):
                await asyncio.Event().wait()
            return PlainTextResponse("never sent")

        messages: list[Message] = [{"type": "http.request", "body": b"a", "more_body": not body_is_read}]

        async def receive() -> Message:
            if messages:
                return messages.pop()
            raise RuntimeError("the proxy has ended")

        async def send(message: Message) -> None:
            pass

        app = Observation(Starlette(routes=[Route("/", answer, methods=["POST"])]), Observer(metrics))
        scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}
        await app(scope, receive, send)
        await asyncio.sleep(0)

    metrics = Metrics()
    asyncio.run(scenario(metrics))
    counted = generate_latest(metrics.registry).decode()
    assert 'code="499"' in counted
    assert 'code="500"' not in counted
    assert not [record for record in caplog.records if record.exc_info]


def test_an_answer_that_cannot_be_sent_is_no_error_of_the_service(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()

    async def connected() -> Message:
        return {"type": "http.request"}

    async def broken(_: Message) -> None:
        raise BrokenPipeError

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    asyncio.run(Observation(PlainTextResponse("a"), Observer(metrics))(scope | {"app": App()}, connected, broken))
    assert 'code="500"' not in generate_latest(metrics.registry).decode()
    assert not [record for record in caplog.records if record.exc_info]
