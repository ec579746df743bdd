"""A request that finds the queue full is refused before its body is read, and its connection goes on."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from aaserve.service.process.message_limits import MAX_CHUNKS
from tests.full_service import full_service
from tests.helpers import EXAMPLES, RunningService, wait_until
from tests.hostile.wire import Answer, answers, ask, connect, received, send
from tests.service.http.test_auth import bearer, lines
from tests.service.repository.serving import serving
from tests.toy_bundles import write_fragile_bundle

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
LARGE, HUGE = bytes(3_000_000), bytes(30_000_000)  # the second is more than the kernel keeps
ORIGIN = "https://app.example"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def post(body: bytes, *headers: str, path: str = "/classify", version: str = "1.1", method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: x", "Content-Type: image/jpeg", *headers]
    if not any(header.startswith("Transfer-Encoding") for header in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(body: bytes, size: int = 100_000) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with full_service(tmp_path_factory.mktemp("crowded")) as running:
        yield running


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Crowded too, and with little patience, for tests that wait for its end."""
    with full_service(tmp_path_factory.mktemp("hasty"), "--client-timeout-ms", "1000") as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Crowded too, with keys, and open to the pages of one origin."""
    folder = tmp_path_factory.mktemp("guarded")
    keys: Path = folder / "keys"
    keys.write_text(lines(("infer,metrics", "secret"), ("admin", "another")))
    options = ("--api-keys-file", str(keys), "--cors-origins", ORIGIN)
    with full_service(folder / "models", *options, headers=bearer("secret")) as running:
        yield running


def test_the_addresses_that_shed_load_are_those_that_run_a_model(crowded: RunningService) -> None:
    paths = crowded.client.get("/openapi.json").json()["paths"]
    posted = {path for path, operations in paths.items() if "post" in operations}
    real = {path: path.replace("{model}", "fragile").replace("{version}", "1") for path in posted}
    shed = {path for path in posted if statuses(ask(crowded, post(b"", path=real[path]) + LAST))[0] == 429}
    others = ("/admin/", "/v2/repository/", "/detect")  # the model is a classifier
    assert shed == {path for path in posted if not path.startswith(others)}


def statuses(found: list[Answer]) -> list[int]:
    return [answer.status for answer in found]


def test_the_answer_has_all_that_answers_have(crowded: RunningService) -> None:
    (answer, _) = ask(crowded, post(JPEG, "X-Request-ID: mine-1") + LAST)
    assert (answer.status, answer.json["code"], answer.json["request_id"]) == (429, "queue_full", "mine-1")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["server-timing"].startswith("total;dur=")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert int(answer.headers["retry-after"]) >= 1
    assert {"date", "content-length"} < answer.headers.keys()
    assert "connection" not in answer.headers


@pytest.mark.parametrize("strange", ["", "a b", "x" * 129, 'qu"ote\\'], ids=["none", "space", "long", "quote"])
def test_its_id_is_that_of_the_request_or_a_new_one(crowded: RunningService, strange: str) -> None:
    (answer, _) = ask(crowded, post(JPEG, f"X-Request-ID: {strange}") + LAST)
    assert answer.json["request_id"] == answer.headers["x-request-id"]
    assert (answer.headers["x-request-id"] == strange) == (strange == 'qu"ote\\')


@pytest.mark.parametrize(
    ("path", "method", "fields"),
    [
        ("/classify?model=fragile", "POST", {"type", "title", "status", "detail", "code", "request_id"}),
        ("/%63lassify", "POST", {"type", "title", "status", "detail", "code", "request_id"}),
        ("/v2/models/fragile/infer", "POST", {"error"}),
        ("/v2/models/fragile/versions/1/infer", "POST", {"error"}),
        ("/predictions/fragile", "PUT", {"code", "type", "message"}),
        ("/predictions/fragile/1", "POST", {"code", "type", "message"}),
    ],
)
def test_each_address_refuses_in_its_own_form(
    crowded: RunningService, path: str, method: str, fields: set[str]
) -> None:
    (answer, _) = ask(crowded, post(JPEG, path=path, method=method) + LAST)
    assert (answer.status, set(answer.json)) == (429, fields)


@pytest.mark.parametrize(
    "request_", [post(LARGE), post(chunked(LARGE), "Transfer-Encoding: chunked")], ids=["length", "chunks"]
)
def test_a_large_body_is_thrown_away_and_the_connection_goes_on(crowded: RunningService, request_: bytes) -> None:
    assert statuses(ask(crowded, request_ + LIVE + request_ + LAST)) == [429, 200, 429, 200]


def test_a_request_that_comes_byte_by_byte_is_refused_once(crowded: RunningService) -> None:
    with connect(crowded) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in post(b"hello" * 10) + LAST:
            send(connection, bytes([byte]))
        assert statuses(answers(received(connection))) == [429, 200]


def test_answers_keep_the_order_of_the_requests(crowded: RunningService) -> None:
    """The one behind a request that is still being answered has to wait for it."""
    assert statuses(ask(crowded, LIVE + post(JPEG) + LIVE + post(JPEG) + post(JPEG) + LAST)) == [
        200,
        429,
        200,
        429,
        429,
        200,
    ]


@pytest.mark.parametrize(
    "request_",
    [
        post(HUGE, "Connection: close"),
        post(HUGE, version="1.0"),
        post(HUGE, "Connection: keep-alive", version="1.0"),
    ],
    ids=["connection: close", "HTTP/1.0", "HTTP/1.0 keep-alive"],
)
def test_a_client_that_asks_to_close_gets_the_whole_answer_and_the_end(
    crowded: RunningService, request_: bytes
) -> None:
    upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    with connect(crowded) as connection:
        connection.sendall(request_)  # all of it is taken, or this would fail
        send(connection, post(JPEG) + LIVE + upgrade)
        (answer,) = answers(received(connection))
    assert (answer.status, answer.headers["connection"]) == (429, "close")


def test_a_refused_request_gets_no_100_continue(crowded: RunningService) -> None:
    with connect(crowded) as connection:
        head, body = post(JPEG, "Expect: 100-continue").split(b"\r\n\r\n", 1)
        send(connection, head + b"\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 429"
        send(connection, body + LAST)
        assert received(connection).count(b"HTTP/1.1 200") == 1


def test_a_body_that_never_ends_does_not_keep_the_connection(hasty: RunningService) -> None:
    for head in (post(b"x")[:-1], post(b"x", "Connection: close")[:-1]):
        assert statuses(ask(hasty, head)) == [429]  # closed by the service, or this would wait for ever


def test_a_client_that_reads_no_answers_is_not_read_any_further(hasty: RunningService) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect((hasty.client.base_url.host, hasty.client.base_url.port))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            connection.sendall(post(bytes(1000)) * 30_000)  # more than the kernel keeps, and so are the answers


def test_the_head_behind_a_refusal_has_its_time(hasty: RunningService) -> None:
    assert statuses(ask(hasty, post(b"x") + b"GET / HTTP/1.1\r\n")) == [429, 408]


def test_an_upgrade_is_ignored_here_too(crowded: RunningService) -> None:
    upgrade = ("Connection: upgrade", "Upgrade: h2c")
    requests = post(JPEG, *upgrade) + post(chunked(JPEG), "Transfer-Encoding: chunked", *upgrade) + post(b"", *upgrade)
    assert statuses(ask(crowded, requests + LAST)) == [429, 429, 429, 200]


def test_a_client_that_has_finished_sending_is_refused_too(crowded: RunningService) -> None:
    with connect(crowded) as connection:
        send(connection, post(JPEG) + post(JPEG))
        connection.shutdown(socket.SHUT_WR)
        assert statuses(answers(received(connection))) == [429, 429]


def test_garbage_and_too_many_chunks_behind_a_refusal_end_the_connection(crowded: RunningService) -> None:
    assert statuses(ask(crowded, post(JPEG) + b"\x80 nonsense\r\n\r\n")) == [429, 400]
    chunks = b"1\r\nx\r\n" * (MAX_CHUNKS + 1)
    assert statuses(ask(crowded, post(chunks, "Transfer-Encoding: chunked") + LAST)) == [429]
    assert crowded.client.get("/health/live").status_code == 200


def test_it_is_counted_as_a_request_and_as_a_refusal_but_is_not_logged(crowded: RunningService) -> None:
    asked = {"endpoint": "/predictions/{model}/{version}", "code": "429"}
    before = [
        crowded.metric("aaserve_requests_total", **asked),
        crowded.metric("aaserve_request_duration_seconds_count", endpoint=asked["endpoint"]),
        crowded.metric("aaserve_rejected_total", reason="queue_full"),
    ]
    ask(crowded, post(JPEG, "X-Request-ID: unlogged", path="/predictions/fragile/1") * 3 + LAST)
    after = [
        crowded.metric("aaserve_requests_total", **asked),
        crowded.metric("aaserve_request_duration_seconds_count", endpoint=asked["endpoint"]),
        crowded.metric("aaserve_rejected_total", reason="queue_full"),
    ]
    assert [now - then for now, then in zip(after, before, strict=True)] == [3, 3, 3]
    assert crowded.metric("aaserve_inflight_requests") == 2  # those that fill the queue
    assert not any("unlogged" in line for line in crowded.log)


def test_a_missing_key_is_reported_before_a_full_queue(guarded: RunningService) -> None:
    def status(**headers: str) -> int:
        return guarded.client.post("/classify", content=JPEG, headers=headers).status_code

    assert status() == 401
    assert status(**bearer("wrong")) == 401
    assert status(**bearer("another")) == 403
    assert status(**bearer("secret")) == 429


def test_a_page_of_another_origin_can_read_the_refusal(guarded: RunningService) -> None:
    def refused(**headers: str) -> dict[str, str]:
        answer = guarded.client.post("/classify", content=JPEG, headers={**bearer("secret"), **headers})
        assert (answer.status_code, answer.json()["code"]) == (429, "queue_full")
        assert int(answer.headers["retry-after"]) >= 1
        return dict(answer.headers)

    allowed = refused(Origin=ORIGIN)
    assert allowed["access-control-allow-origin"] == ORIGIN
    assert "Retry-After" in allowed["access-control-expose-headers"]
    assert allowed["vary"] == "Origin"
    assert "access-control-allow-origin" not in refused(Origin="https://evil.example")
    assert "access-control-allow-origin" not in refused()


def test_while_the_service_stops_a_refusal_closes_the_connection(tmp_path: Path) -> None:
    with full_service(tmp_path, "--drain-grace-ms", "20000") as running, connect(running) as connection:
        running.process.send_signal(signal.SIGTERM)
        wait_until(lambda: running.client.get("/health/ready").status_code == 503)
        before = running.metric("aaserve_requests_total", endpoint="/classify")
        send(connection, post(b"x") + post(b"x"))
        (answer,) = answers(received(connection))
        assert (answer.status, answer.headers["connection"]) == (429, "close")
        assert running.metric("aaserve_requests_total", endpoint="/classify") == before + 1


def test_a_refusal_holds_for_one_turn_of_the_event_loop(tmp_path: Path) -> None:
    write_fragile_bundle(tmp_path / "models")
    with serving(tmp_path / "models") as (_, app):
        [predictor] = app.state.lifecycle.repository.predictors

        def asked() -> int:
            head = [(b"content-type", b"image/png"), (b"authorization", b"Bearer key")]
            refused = app.state.load_shedding.answer(b"POST", b"/classify", head, None)
            return refused.status if refused else 200

        async def turns() -> list[int]:
            with predictor.admission.admit(rows=predictor.admission.max_rows, timeout=60):
                found = [asked()]
            found.append(asked())  # the same question in the same turn
            await asyncio.sleep(0)
            return [*found, asked()]

        assert asyncio.run(turns()) == [429, 429, 200]
