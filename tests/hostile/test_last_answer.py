"""The last answer of a connection arrives, although the client is still sending when the service closes."""

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from aaserve.service.process.lingering import LINGER_BYTES
from tests.helpers import RunningService, running_service, wait_until
from tests.hostile.wire import answers, connect, received, send

LARGE = 12_000_000  # bytes: more than the kernel keeps, and more than max_body_bytes
HEAD = b"POST /classify HTTP/1.1\r\nHost: x\r\n"
CONNECTIONS = 3


@pytest.fixture(scope="module")
def strict() -> Iterator[RunningService]:
    with running_service("--client-timeout-ms", "600", "--max-connections", str(CONNECTIONS)) as running:
        yield running


def post(service: RunningService, path: str, body: bytes | Iterator[bytes], **headers: str) -> int:
    """Ask as Python's own client does, which sends the whole body before it looks for an answer."""
    connection = http.client.HTTPConnection(service.client.base_url.host, service.client.base_url.port, 60)
    chunked = not isinstance(body, bytes)
    sent = {"Content-Type": "image/jpeg", **({"Transfer-Encoding": "chunked"} if chunked else {}), **headers}
    connection.request("POST", path, body, sent, encode_chunked=chunked)
    return connection.getresponse().status


@pytest.mark.parametrize(
    ("path", "status", "headers"),
    [
        ("/classify", 413, {}),
        ("/classify?top_k=1", 413, {}),
        ("/classify/batch", 413, {"Content-Type": "application/json"}),
        ("/v2/models/aa-cifar100/infer", 413, {}),
        ("/v2/repository/index", 413, {}),
        ("/nowhere", 404, {"Connection": "close"}),
        ("/classify?top_k=none", 422, {"Connection": "close"}),
        ("/classify", 431, {"A": "b" * 3_000_000}),
        ("/classify", 400, {"Content-Length": "x"}),
    ],
    ids=["short way", "query", "batch", "infer", "index", "no such path", "bad parameter", "head", "bad length"],
)
def test_a_client_that_sends_all_before_it_reads_gets_the_answer(
    service: RunningService, path: str, status: int, headers: dict[str, str]
) -> None:
    assert post(service, path, bytes(LARGE), **headers) == status


def test_chunks_beyond_the_limit_are_answered_too(service: RunningService) -> None:
    assert post(service, "/classify", iter([bytes(1_000_000)] * 15)) == 413


def test_a_client_that_is_too_slow_with_its_head_can_go_on_sending_and_reads_why(strict: RunningService) -> None:
    with connect(strict) as connection:
        connection.sendall(HEAD)
        beginning = connection.recv(4)
        connection.sendall(bytes(LARGE))
        [answer] = answers(beginning + received(connection))
    assert answer.status == 408


def test_bytes_and_time_of_lingering_are_bounded(strict: RunningService) -> None:
    strict.client.get("/health/live")
    descriptors = len(list(Path(f"/proc/{strict.process.pid}/fd").iterdir()))
    with connect(strict) as connection:
        send(connection, b"nonsense\r\n\r\n")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            connection.sendall(bytes(2 * LINGER_BYTES))
    late = strict.metric("aaserve_rejected_total", reason="head_timeout")
    silent = [connect(strict) for _ in range(CONNECTIONS - 1)]  # they neither send nor close, and take all places
    for connection in silent:
        send(connection, b"GET / HTTP/1.1\r\nno colon\r\n\r\n")
        assert [answer.status for answer in answers(received(connection))] == [400]
    wait_until(lambda: len(list(Path(f"/proc/{strict.process.pid}/fd").iterdir())) <= descriptors)
    assert strict.metric("aaserve_rejected_total", reason="head_timeout") == late
    assert not [line for line in strict.log if "Traceback" in line]
    for connection in silent:
        connection.close()


def test_lingering_does_not_keep_a_service_that_stops() -> None:
    with running_service("--client-timeout-ms", "60000") as service, connect(service) as connection:
        send(connection, b"nonsense\r\n\r\n")
        assert [answer.status for answer in answers(received(connection))] == [400]
        assert service.stop() == 0
    assert not [line for line in service.log if "graceful" in line]
