"""Messages that are no HTTP, or have heads, trailers and chunks without end."""

import pytest

from aaserve.service.process.message_limits import MAX_CHUNKS, MAX_HEAD_BYTES, MAX_HEADERS
from tests.helpers import RunningService, wait_until
from tests.hostile.wire import CLOSE, JPEG, LIVE, POST, answers, ask, connect, is_problem, received, send

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


def test_a_path_cannot_write_a_line_of_the_log(service: RunningService) -> None:
    answer = service.client.get("/nope%0a2026-01-01%20ERROR%20forged")
    assert answer.status_code == 404
    wait_until(lambda: any(answer.json()["request_id"] in line for line in service.log))
    assert not any(line.startswith("2026-01-01") for line in service.log)
