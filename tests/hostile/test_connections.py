"""Connections misused before, between and instead of requests."""

import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aaserve.service.process.connection import PROBES
from aaserve.service.process.message_limits import MAX_CHUNKS, MAX_HEAD_BYTES, MAX_HEADERS
from tests.helpers import EXAMPLES, ROOT, RunningService, running_service, wait_until
from tests.hostile.wire import Answer, answers, ask, connect, received, send

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
POST = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
CLOSE = b"Connection: close\r\n\r\n"
CONNECTIONS = 40


@pytest.fixture(scope="module")
def strict() -> Iterator[RunningService]:
    """A service that has little patience and few connections."""
    limits = {"client-timeout": "600", "request-timeout": "2000", "keep-alive": "5500"}  # uvicorn's own is 5 s
    options = [word for name, value in limits.items() for word in (f"--{name}-ms", value)]
    with running_service(*options, "--max-connections", str(CONNECTIONS)) as running:
        yield running


def descriptors(service: RunningService) -> int:
    """Open files of the service, whose first request to /metrics opens one for good."""
    service.client.get("/metrics")
    return len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))


def is_problem(answer: Answer, status: int, code: str) -> bool:
    return (
        (answer.status, answer.json["code"], answer.json["status"]) == (status, code, status)
        and answer.headers["content-type"] == "application/problem+json"
        and answer.headers["x-request-id"] == answer.json["request_id"]
        and answer.headers["connection"] == "close"
        and answer.headers["x-content-type-options"] == "nosniff"
    )


NOT_HTTP = {
    "noise": bytes(range(128, 256)),
    "TLS": bytes.fromhex("160301020001000001fc0303") + bytes(200),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown method": b"EAT / HTTP/1.1\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nA: b\r\n c\r\n : d\r\n\r\n",
    "a null byte in a header": b"GET / HTTP/1.1\r\nA: b\0c\r\n\r\n",
    "bare line feeds": b"GET / HTTP/1.1\nA: b\n\n",
    "a path beyond ASCII": "GET /ä HTTP/1.1\r\n\r\n".encode(),
    "a null byte in the path": b"GET /\0 HTTP/1.1\r\n\r\n",
    "no path": b"CONNECT x HTTP/1.1\r\n\r\n",
    "length twice": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "the same length twice": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "lengths in a list": POST + b"Content-Length: 5, 5\r\n\r\nhello",
    "a negative length": POST + b"Content-Length: -5\r\n\r\nhello",
    "a signed length": POST + b"Content-Length: +5\r\n\r\nhello",
    "a hexadecimal length": POST + b"Content-Length: 0x5\r\n\r\nhello",
    "a length beyond 64 bits": POST + b"Content-Length: 18446744073709551617\r\n\r\nhello",
    "length and chunks": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\nhello",
    "chunked, but not last": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "a chunk of no size": POST + b"Transfer-Encoding: chunked\r\n\r\nz\r\n",
    "a chunk of a negative size": POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nhello\r\n",
    "a chunk beyond 64 bits": POST + b"Transfer-Encoding: chunked\r\n\r\n11111111111111111\r\n",
    "no host": b"GET /health/live HTTP/1.1\r\n\r\n",
    "two hosts": LIVE + b"Host: y\r\n\r\n",
    "the same host twice": LIVE + b"host: x\r\n\r\n",
    "two hosts in HTTP/1.0": b"GET /health/live HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n",
    "no host, but an upgrade": b"GET /health/live HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    "a host that is none": b"GET /health/live HTTP/1.1\r\nHost: a b\r\n\r\n",
    "a list of hosts": b"GET /health/live HTTP/1.1\r\nHost: x/y\r\n\r\n",
    "HTTP/2.0": b"GET /health/live HTTP/2.0\r\nHost: x\r\n\r\n",
    "HTTP/0.9": b"GET /health/live HTTP/0.9\r\nHost: x\r\n\r\n",
    "a tunnel": b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
}


@pytest.mark.parametrize("data", NOT_HTTP.values(), ids=NOT_HTTP)
def test_data_that_is_not_http_gets_one_400_in_our_form(service: RunningService, data: bytes) -> None:
    (answer,) = ask(service, data)
    assert is_problem(answer, 400, "invalid_request")
    assert service.client.get("/health/live").status_code == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health/live HTTP/1.0\r\n\r\n",
        b"GET /health/live HTTP/1.0\r\nHost: x\r\n\r\n",
        *(
            b"GET /health/live HTTP/1.1\r\nHost: %b\r\n" % host + CLOSE
            for host in (b"", b"a.example:8080", b"a_b-c", b"127.0.0.1:", b"[::1]:80", b"[fe80::1%25eth0]")
        ),
    ],
    ids=repr,
)
def test_a_host_is_needed_from_http_1_1_on(service: RunningService, head: bytes) -> None:
    (answer,) = ask(service, head)
    assert answer.status == 200


def test_the_form_is_that_of_the_address(service: RunningService) -> None:
    (answer,) = ask(service, b"POST /v2/models/m/infer HTTP/1.1\r\nContent-Length: x\r\n\r\n")
    assert (answer.status, list(answer.json), answer.headers["content-type"]) == (400, ["error"], "application/json")


@pytest.mark.parametrize("piecemeal", [False, True], ids=["at once", "piecemeal"])
@pytest.mark.parametrize(
    "head",
    [
        LIVE + b"".join(b"A%d: b\r\n" % number for number in range(MAX_HEADERS)) + b"\r\n",
        LIVE + b"A: " + b"b" * MAX_HEAD_BYTES + b"\r\n\r\n",
        LIVE + b"".join(b"A%d: %b\r\n" % (number, b"b" * 1000) for number in range(70)) + b"\r\n",
        b"GET /" + b"a" * MAX_HEAD_BYTES + b" HTTP/1.1\r\n\r\n",
        LIVE + b"A: " + b"b" * 1_000_000,  # without an end
    ],
    ids=["count", "value", "together", "path", "endless"],
)
def test_a_head_has_its_limits(service: RunningService, head: bytes, piecemeal: bool) -> None:
    with connect(service) as connection:
        step = 5000 if piecemeal else len(head)
        for start in range(0, len(head), step):
            send(connection, head[start : start + step])
        (answer,) = answers(received(connection))
    assert is_problem(answer, 431, "head_too_large") or answer.json["error"]


def test_a_head_within_the_limits_is_fine(service: RunningService) -> None:
    headers = [b"A%d: %b\r\n" % (number, b"b" * 600) for number in range(MAX_HEADERS - 2)]
    (answer,) = ask(service, LIVE + b"".join(headers) + CLOSE)
    assert answer.status == 200


def test_trailers_are_bounded_and_are_no_headers(service: RunningService) -> None:
    chunked = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(JPEG), JPEG)
    (answer,) = ask(service, chunked + b"X-Request-ID: trailer\r\nX-Request-Timeout-Ms: soon\r\n\r\n")
    assert answer.status == 200
    assert answer.headers["x-request-id"] != "trailer"
    (answer,) = ask(service, chunked + b"".join(b"A%d: b\r\n" % number for number in range(MAX_HEADERS + 1)))
    assert is_problem(answer, 431, "head_too_large")
    (answer,) = ask(service, chunked + b"A: " + b"b" * 1_000_000)
    assert is_problem(answer, 431, "head_too_large")


def test_chunks_are_counted(service: RunningService) -> None:
    chunks = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + b"1\r\nx\r\n" * (MAX_CHUNKS - 1)
    (answer,) = ask(service, chunks + b"0\r\n\r\n")
    assert (answer.status, answer.json["code"]) == (415, "unsupported_media_type")  # it was read, and is no picture
    (answer,) = ask(service, chunks + b"1\r\nx\r\n0\r\n\r\n")
    assert is_problem(answer, 413, "body_too_large")
    assert "chunks" in answer.json["detail"]


def test_endless_chunk_extensions_end(service: RunningService) -> None:
    (answer,) = ask(service, POST + b"Transfer-Encoding: chunked\r\n\r\n1;a=" + b"b" * 1_000_000)
    assert is_problem(answer, 431, "head_too_large")


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


def test_a_silent_connection_is_kept_between_requests_for_as_long_as_is_set(strict: RunningService) -> None:
    began = time.monotonic()
    (answer,) = ask(strict, LIVE + b"\r\n")
    assert answer.status == 200
    assert time.monotonic() - began >= 5.5


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
        connection.settimeout(20)
        connection.connect((strict.client.base_url.host, strict.client.base_url.port))
        send(connection, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 5000)
        wait_until(lambda: descriptors(strict) <= before)
        wait_until(lambda: strict.metric("aaserve_inflight_requests") == 0)


def test_garbage_behind_a_request_does_not_take_the_place_of_its_answer(service: RunningService) -> None:
    request = POST + b"Content-Length: %d\r\n\r\n" % len(JPEG) + JPEG
    answer, refusal = ask(service, request + b"\x80 nonsense\r\n\r\n")
    assert answer.status == 200
    assert answer.json["predictions"]
    assert is_problem(refusal, 400, "invalid_request")


def test_a_broken_body_does_not_take_the_place_of_the_answer_before_it(service: RunningService) -> None:
    broken = POST + b"Transfer-Encoding: chunked\r\n\r\nz\r\n"
    answer, refusal = ask(service, LIVE + b"\r\n" + broken)
    assert answer.json == {"state": "ready"}
    assert is_problem(refusal, 400, "invalid_request")


H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
WEBSOCKET = b"Upgrade: websocket\r\nConnection: keep-alive, upgrade\r\nSec-WebSocket-Version: 13\r\n"
UPGRADES = {
    "length": POST + H2C + b"Content-Length: %d\r\n\r\n" % len(JPEG) + JPEG,
    "length first": POST + b"Content-Length: %d\r\n" % len(JPEG) + WEBSOCKET + b"\r\n" + JPEG,
    "chunks": POST + b"Transfer-Encoding: chunked\r\n" + H2C + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(JPEG), JPEG),
    "trailers": POST + H2C + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\nA: b\r\n\r\n" % (len(JPEG), JPEG),
    "no body": LIVE + H2C + b"\r\n",
    "an empty body": LIVE + WEBSOCKET + b"Content-Length: 0\r\n\r\n",
    "twice": LIVE + H2C + WEBSOCKET + b"\r\n",
}


@pytest.mark.parametrize("torn", [False, True], ids=["at once", "in pieces"])
@pytest.mark.parametrize("request_", UPGRADES.values(), ids=UPGRADES)
def test_an_upgrade_is_ignored_and_the_connection_goes_on(service: RunningService, request_: bytes, torn: bool) -> None:
    with connect(service) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        cut = request_.index(b"\r\n\r\n") + 2
        for piece in (request_[:90], request_[90:cut], request_[cut:]) if torn else (request_,):
            send(connection, piece)
        send(connection, request_ + LIVE + CLOSE)
        found = answers(received(connection))
    assert [answer.status for answer in found] == [200, 200, 200]
    assert found[0].json == found[1].json
    assert "upgrade" not in found[0].headers


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_an_upgrade_on_a_connection_that_is_to_close_is_ignored_too(service: RunningService, version: bytes) -> None:
    request = POST.replace(b"1.1", version) + b"Upgrade: h2c\r\nConnection: close, upgrade\r\n"
    (answer,) = ask(service, request + b"Content-Length: %d\r\n\r\n" % len(JPEG) + JPEG)
    assert (answer.status, answer.headers["connection"]) == (200, "close")


@pytest.mark.parametrize("length", [True, False], ids=["length", "chunks"])
def test_the_body_of_an_upgrade_is_not_parsed_as_a_request(service: RunningService, length: bool) -> None:
    hidden = b"DELETE /classify HTTP/1.1\r\nHost: x\r\n\r\n" + LIVE + b"\r\n"
    if length:
        request = POST + H2C + b"Content-Length: %d\r\n\r\n%b" % (len(hidden), hidden)
    else:
        request = POST + H2C + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(hidden), hidden)
    picture, live = ask(service, request + LIVE + CLOSE)
    assert (picture.status, picture.json["code"]) == (415, "unsupported_media_type")
    assert live.status == 200


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
    opened = [connect(strict) for _ in range(CONNECTIONS)]
    for connection in opened:  # each has a request, whose body is missing
        send(connection, POST + b"Content-Length: 10\r\n\r\n")
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


def test_ten_thousand_connections_leave_nothing_behind(service: RunningService) -> None:
    before = descriptors(service)
    address = service.client.base_url.host, service.client.base_url.port
    for wave in range(20):
        connections = []
        for number in range(500):
            connection = socket.create_connection(address, 20)
            if (wave + number) % 3 == 1:
                send(connection, LIVE)
            elif (wave + number) % 3 == 2:
                send(connection, POST + b"Content-Length: 100\r\n\r\nx")
            connections.append(connection)
        for connection in connections:
            connection.close()
    wait_until(lambda: descriptors(service) <= before, 30)
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


def test_a_path_cannot_write_a_line_of_the_log(service: RunningService) -> None:
    answer = service.client.get("/nope%0a2026-01-01%20ERROR%20forged")
    assert answer.status_code == 404
    wait_until(lambda: any(answer.json()["request_id"] in line for line in service.log))
    assert not any(line.startswith("2026-01-01") for line in service.log)
