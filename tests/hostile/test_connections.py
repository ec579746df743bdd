"""Connections misused before, between and instead of requests."""

import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from aaserve.service.process.connection import PROBES
from tests.helpers import ROOT, RunningService, running_service, wait_until
from tests.hostile.wire import (
    CLOSE,
    JPEG,
    LIVE,
    POST,
    Answer,
    answers,
    ask,
    connect,
    is_problem,
    received,
    send,
)

CONNECTIONS = 40


@pytest.fixture(scope="module")
def strict() -> Iterator[RunningService]:
    """A service that has little patience and few connections."""
    limits = {"client-timeout": "600", "request-timeout": "2000", "keep-alive": "5500"}  # uvicorn's own is 5 s
    options = [word for name, value in limits.items() for word in (f"--{name}-ms", value)]
    with running_service(*options, "--max-connections", str(CONNECTIONS)) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def silent(strict: RunningService) -> Iterator[Future[float]]:
    """How many seconds a connection is kept that sends nothing after its first answer, while other tests run."""

    def kept() -> float:
        began = time.monotonic()
        (answer,) = ask(strict, LIVE + b"\r\n")
        assert answer.status == 200
        return time.monotonic() - began

    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(kept)


def descriptors(service: RunningService) -> int:
    """Open files of the service, whose first request to /metrics opens one for good."""
    service.client.get("/metrics")
    return len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))


def test_a_head_that_does_not_end_in_time_is_answered_and_silence_is_not(strict: RunningService) -> None:
    (answer,) = ask(strict, LIVE)
    assert is_problem(answer, 408, "head_timeout")
    assert ask(strict, b"") == []
    assert ask(strict, b"\r\n") == []
    assert strict.metric("aaserve_rejected_total", reason="head_timeout") == 1


def test_a_head_that_drips_ends_in_time(strict: RunningService) -> None:
    """Each byte comes well within the time; all of them together do not."""
    with connect(strict) as connection:
        connection.settimeout(0.05)
        content = b""
        for number in range(1000):
            send(connection, b"A" if number else LIVE)
            try:
                content += connection.recv(65536)
                break
            except TimeoutError:
                continue
    assert is_problem(answers(content)[0], 408, "head_timeout")


def test_the_second_head_of_a_connection_has_its_time_too(strict: RunningService) -> None:
    first, second = ask(strict, LIVE + b"\r\n" + LIVE)
    assert first.status == 200
    assert is_problem(second, 408, "head_timeout")


def test_an_unread_body_does_not_keep_the_connection(strict: RunningService) -> None:
    with connect(strict) as connection:
        send(connection, LIVE + b"Content-Length: 1000000000\r\n\r\n")
        connection.settimeout(0.05)
        content, closed = b"", False
        for _ in range(1000):
            send(connection, b"x")
            try:
                piece = connection.recv(65536)
            except TimeoutError:
                continue
            except ConnectionResetError:
                piece = b""
            content += piece
            closed = not piece
            if closed:
                break
    assert closed
    assert [answer.status for answer in answers(content)] == [200]


def test_a_body_that_drips_ends_with_the_deadline(strict: RunningService) -> None:
    head = POST + b"X-Request-Timeout-Ms: 300\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n"
    (answer,) = ask(strict, head + b"\xff\xd8\xff")
    assert (answer.status, answer.json["code"]) == (504, "deadline_exceeded")


def test_no_other_body_is_waited_for_either(strict: RunningService) -> None:
    head = b"POST /v2/repository/index HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 10\r\n\r\n"
    (answer,) = ask(strict, head + b"{")
    assert answer.status == 504


def test_a_client_that_reads_no_answer_is_cut_off(strict: RunningService) -> None:
    """Requests one after another, whose answers are not read: they pile up only until the time is over."""
    before = descriptors(strict)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect((strict.client.base_url.host, strict.client.base_url.port))
        send(connection, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 5000)
        wait_until(lambda: descriptors(strict) <= before)
        wait_until(lambda: strict.metric("aaserve_inflight_requests") == 0)


def test_a_silent_connection_is_kept_between_requests_for_as_long_as_is_set(silent: Future[float]) -> None:
    assert silent.result() >= 5.5


@pytest.mark.parametrize("path", [b"/classify", b"/classify?top_k=5"], ids=["short way", "application"])
def test_a_client_that_has_finished_sending_gets_its_answers(service: RunningService, path: bytes) -> None:
    before = service.metric("aaserve_rejected_total", reason="disconnected")
    request = POST.replace(b"/classify", path) + b"Content-Length: %d\r\n\r\n" % len(JPEG) + JPEG
    found = ask_and_finish(service, request + LIVE + b"\r\n" + request)
    assert [answer.status for answer in found] == [200, 200, 200]
    assert found[0].json == found[2].json
    assert service.metric("aaserve_rejected_total", reason="disconnected") == before


def test_a_request_that_ends_too_early_is_refused_at_once(service: RunningService) -> None:
    for request in (LIVE, POST + b"Content-Length: 9\r\n\r\nx", POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nx"):
        live, refusal = ask_and_finish(service, LIVE + b"\r\n" + request)
        assert live.status == 200
        assert is_problem(refusal, 400, "invalid_request")
        assert "ended before" in refusal.json["detail"]


def test_a_connection_without_a_request_closes_when_the_client_has_finished(service: RunningService) -> None:
    assert ask_and_finish(service, b"") == []
    assert [answer.status for answer in ask_and_finish(service, LIVE + b"\r\n")] == [200]


def ask_and_finish(service: RunningService, data: bytes) -> list[Answer]:
    """Send `data`, shut down the sending side, and read until the service closes."""
    with connect(service) as connection:
        send(connection, data)
        connection.shutdown(socket.SHUT_WR)
        return answers(received(connection))


def test_connections_beyond_the_limit_are_told_so_and_probes_are_answered(strict: RunningService) -> None:
    rest = strict.metric("aaserve_rejected_total", reason="too_many_connections")
    strict.client.close()
    opened = []
    for _ in range(CONNECTIONS):  # each has a request, whose body is missing
        opened.append(connect(strict))
        send(opened[-1], POST + b"Content-Length: 10\r\n\r\n")
    (answer,) = ask(strict, POST + b"Content-Length: %d\r\n\r\n" % len(JPEG) + JPEG)
    assert is_problem(answer, 503, "too_many_connections")
    assert answer.headers["retry-after"] == "1"
    for path in PROBES:
        (probe,) = ask(strict, b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (probe.status, probe.headers["connection"]) == (200, "close")
    for connection in opened:
        connection.close()
    wait_until(lambda: ask(strict, POST + b"Content-Length: 1\r\n" + CLOSE + b"x")[0].status != 503)
    (metrics,) = ask(strict, b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + CLOSE)
    [rejected] = re.findall(rb'aaserve_rejected_total{reason="too_many_connections"} ([\d.]+)', metrics.body)
    assert float(rejected) >= rest + 1


@pytest.mark.parametrize("sent", [b"", LIVE, LIVE + b"\r\n"], ids=["silent", "half a head", "kept after an answer"])
def test_at_the_limit_the_connection_that_has_waited_longest_gives_way(strict: RunningService, sent: bytes) -> None:
    opened = [connect(strict) for _ in range(CONNECTIONS)]
    for connection in opened:
        send(connection, sent)
        if sent.endswith(b"\r\n\r\n"):
            assert connection.recv(12) == b"HTTP/1.1 200"
    for _ in range(3):
        (answer,) = ask(strict, POST + b"Content-Length: %d\r\n" % len(JPEG) + CLOSE + JPEG)
        assert answer.status == 200
    received(opened[0])  # until it is closed, long before its time
    for connection in opened:
        connection.close()


def test_a_connection_is_kept_after_an_answer_that_came_before_the_body(strict: RunningService) -> None:
    with connect(strict) as connection:
        send(connection, b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        content = b""
        while not content.endswith(b"}"):
            content += connection.recv(65536)
        send(connection, bytes(1000))
        time.sleep(1.2)  # twice client_timeout_ms, and much less than keep_alive_ms
        send(connection, LIVE + CLOSE)
        assert [answer.status for answer in answers(content + received(connection))] == [404, 200]


def test_clients_who_leave_with_requests_waiting_are_not_errors(service: RunningService) -> None:
    request = POST + b"Content-Length: %d\r\n\r\n" % len(JPEG) + JPEG
    before = service.metric("aaserve_requests_total", code="500")
    for _ in range(20):
        with connect(service) as connection:
            send(connection, request * 3)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: service.metric("aaserve_inflight_requests") == 0)
    assert service.metric("aaserve_requests_total", code="500") == before
    assert not [line for line in service.log if "Traceback" in line or " failed" in line]


def test_two_thousand_connections_leave_nothing_behind(service: RunningService) -> None:
    before = descriptors(service)
    address = service.client.base_url.host, service.client.base_url.port
    for wave in range(4):
        connections = []
        for number in range(500):
            connection = socket.create_connection(address, 60)
            if (wave + number) % 3 == 1:
                send(connection, LIVE)
            elif (wave + number) % 3 == 2:
                send(connection, POST + b"Content-Length: 100\r\n\r\nx")
            connections.append(connection)
        for connection in connections:
            connection.close()
    wait_until(lambda: descriptors(service) <= before)
    wait_until(lambda: service.metric("aaserve_inflight_requests") == 0)
    assert service.classify(JPEG).status_code == 200


@pytest.mark.parametrize(("hard", "expected"), [(200, "72 200"), (100, "1 100"), (5000, "4096 4224")])
def test_there_are_no_more_connections_than_files(hard: int, expected: str) -> None:
    script = (
        "import resource\nfrom aaserve.service.resources import allowed_connections\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (64, {hard}))\n"
        "print(allowed_connections(4096), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
    assert ("max_connections" in done.stderr) == (hard < 4096)
