"""A picture that comes with no wishes is answered without an application, and nobody can tell by the answer."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.datastructures import State

from service.metrics import Metrics
from service.observation import Observer
from service.settings import Settings
from service.short_way import ShortWay
from tests.helpers import EXAMPLES, RunningService, encode, noise, photograph, running_service, wait_until
from tests.hostile.wire import Answer, answers, ask, connect, received, send
from tests.toy_bundles import HANGS, OUT_OF_RANGE, picture, write_fragile_bundle

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
PNG = encode(noise(32, 32), "PNG")
ORIGIN = "https://app.example"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
LIMIT = 2_000_000


def post(body: bytes, *headers: str, path: str = "/classify", version: str = "1.1", method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running_service("--log-format", "json", "--max-body-bytes", str(LIMIT)) as running:
        yield running


def of_the_application(service: RunningService, body: bytes, *headers: str) -> Answer:
    """What the same request is told that wishes for what it would get anyway."""
    [answer, _] = ask(service, post(body, *headers, path="/classify?version=1") + LIVE)
    return answer


def without_times(answer: Answer) -> tuple[int, list[str], Any, str]:
    timing = re.sub(r"[\d.]+", "", answer.headers["server-timing"])
    told = {**answer.json, "request_id": ""} if answer.status >= 400 else answer.body
    values = [(name, value) for name, value in answer.headers.items() if name not in ("server-timing", "x-request-id")]
    return answer.status, [*answer.headers], told, f"{values} {timing}"


BODIES = {
    "a small picture": PNG,
    "a photograph": JPEG,
    "a large picture": encode(photograph(), "BMP"),
    "half": PNG[:99],
}
TYPES = (
    "Content-Type: image/png",
    "Content-Type: application/octet-stream",
    "content-type: IMAGE/x; a=b",
    "X-No: type",
)


@pytest.mark.parametrize("header", TYPES)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_answers_are_those_of_the_application_header_by_header(
    service: RunningService, body: bytes, header: str
) -> None:
    [answer, live] = ask(service, post(body, header) + LIVE)
    assert answer.status == (400 if body is BODIES["half"] else 200)
    assert without_times(answer) == without_times(of_the_application(service, body, header))
    assert live.status == 200  # on the same connection


def test_log_and_metrics_are_those_of_the_application(service: RunningService) -> None:
    def counted(name: str, **labels: str) -> float:
        return service.metric(name, **labels)

    asked, stages = {"endpoint": "/classify", "code": "200"}, {"stage": "respond"}
    before = counted("aaserve_requests_total", **asked), counted("aaserve_stage_duration_seconds_count", **stages)
    ask(service, post(PNG, "X-Request-ID: short") + LIVE)
    ask(service, post(PNG, "X-Request-ID: long", path="/classify?version=1") + LIVE)
    after = counted("aaserve_requests_total", **asked), counted("aaserve_stage_duration_seconds_count", **stages)
    assert [now - then for now, then in zip(after, before, strict=True)] == [2, 2]
    assert counted("aaserve_inflight_requests") == 1  # which asks for the metrics
    wait_until(lambda: any('"long"' in line for line in service.log))
    short, long = (json.loads(next(line for line in service.log if f'"{name}"' in line)) for name in ("short", "long"))
    times = {"time": "", "request_id": "", "total_ms": 0}
    assert [*short["stages_ms"]] == [*long["stages_ms"]]
    assert {**short, **times, "stages_ms": 0} == {**long, **times, "stages_ms": 0}


def test_requests_that_come_together_are_answered_in_their_order(service: RunningService) -> None:
    together = [post(PNG), post(JPEG, path="/classify?top_k=1"), post(PNG[:50]), post(JPEG), LIVE]
    found = ask(service, b"".join(together))
    assert [answer.status for answer in found] == [200, 200, 400, 200, 200]
    assert found[1].json["predictions"] == found[3].json["predictions"][:1]
    assert found[0].json["predictions"] != found[3].json["predictions"]


@pytest.mark.parametrize("piece", [1, 700])
def test_a_body_that_comes_in_pieces_is_waited_for(service: RunningService, piece: int) -> None:
    asked = post(PNG[:200]) if piece == 1 else post(JPEG)
    with connect(service) as connection:
        for start in range(0, len(asked), piece):
            connection.sendall(asked[start : start + piece])
        send(connection, LIVE)
        assert [answer.status for answer in answers(received(connection))] == [400 if piece == 1 else 200, 200]


@pytest.mark.parametrize(("version", "header"), [("1.0", "X: y"), ("1.1", "Connection: close")])
def test_a_connection_that_is_to_end_ends_with_the_answer(service: RunningService, version: str, header: str) -> None:
    [answer] = ask(service, post(PNG, header, version=version))
    assert (answer.status, answer.headers["connection"]) == (200, "close")


def test_pages_of_other_origins_are_told_that_they_may_read_it() -> None:
    with running_service("--cors-origins", ORIGIN) as service:
        [asked, other, _] = ask(service, post(PNG, f"Origin: {ORIGIN}") + post(PNG) + LIVE)
    assert (asked.status, asked.headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert (other.status, other.headers["vary"]) == (200, "Origin")


def test_a_body_that_does_not_come_in_time_leaves_no_place_taken() -> None:
    with (
        running_service("--request-timeout-ms", "300", "--max-queue-size", "1") as service,
        connect(service) as connection,
    ):
        send(connection, post(PNG)[:-1])
        [late] = answers(received_one(connection))
        assert (late.status, late.json["code"]) == (504, "deadline_exceeded")
        assert service.classify(PNG).status_code == 200


def received_one(connection: socket.socket) -> bytes:
    content = b""
    while not content.endswith(b"}"):
        content += connection.recv(65536)
    return content


def test_who_leaves_is_counted_and_leaves_no_place_taken() -> None:
    with running_service("--log-format", "json", "--max-queue-size", "1") as service:
        with connect(service) as connection:
            send(connection, post(PNG, "X-Request-ID: gone")[:-1])
            wait_until(lambda: service.metric("aaserve_inflight_requests") == 2)
        wait_until(lambda: service.metric("aaserve_rejected_total", reason="disconnected") == 1)
        assert service.metric("aaserve_requests_total", endpoint="/classify", code="499") == 1
        assert service.classify(PNG).status_code == 200
        wait_until(lambda: any("gone" in line for line in service.log))
        assert json.loads(next(line for line in service.log if "gone" in line))["outcome"] == "disconnected"


def test_what_fails_is_answered_and_its_cause_logged(tmp_path: Path) -> None:
    write_fragile_bundle(tmp_path)
    with running_service(repository=tmp_path) as service:
        [answer, live] = ask(service, post(picture(OUT_OF_RANGE), "X-Request-ID: why") + LIVE)
        assert (answer.status, answer.json["code"], answer.json["request_id"]) == (500, "internal", "why")
        assert live.status == 200
        wait_until(lambda: any("request why: internal" in line for line in service.log))


def test_who_leaves_while_the_model_computes_is_not_waited_for(tmp_path: Path) -> None:
    write_fragile_bundle(tmp_path)
    with running_service("--model-call-timeout-ms", "60000", repository=tmp_path) as service, connect(service) as other:
        send(other, post(b"x" * 9)[:-1])  # with company, a lane computes
        with connect(service) as connection:
            send(connection, post(picture(HANGS)))
            wait_until(lambda: service.metric("aaserve_inflight_requests") == 3)
        wait_until(lambda: service.metric("aaserve_rejected_total", reason="disconnected") == 1)
        service.process.kill()  # the call does not come back


def short_way(**settings: Any) -> ShortWay:
    return ShortWay(State(), Settings(_cli_parse_args=[], **settings), Observer(Metrics()))


def taken(
    *headers: tuple[str, str], path: str = "/classify", query: str = "", method: str = "POST", **settings: Any
) -> int:
    lines = [(name.lower().encode(), value.encode()) for name, value in headers]
    scope = {"path": path, "query_string": query.encode(), "method": method, "headers": lines}
    return short_way(**settings).picture_bytes(SimpleNamespace(scope=scope))  # type: ignore[arg-type]


LENGTH = ("Content-Length", "7")


@pytest.mark.parametrize("media_type", ["image/png", "image/jpeg; x=y", "application/octet-stream", ""])
def test_a_picture_is_taken(media_type: str) -> None:
    assert taken(LENGTH, ("Content-Type", media_type), ("User-Agent", "x")) == 7


@pytest.mark.parametrize(
    "asked",
    [
        {"query": "top_k=1"},
        {"method": "PUT"},
        {"path": "/classify/batch"},
        {"max_body_bytes": 6},
    ],
    ids=str,
)
def test_what_is_more_than_a_picture_is_for_the_application(asked: dict[str, Any]) -> None:
    assert taken(LENGTH, **asked) == 0


@pytest.mark.parametrize(
    "header",
    [
        ("Content-Type", "multipart/form-data; boundary=x"),
        ("Content-Type", "application/json"),
        ("Content-Type", "text/plain"),
        ("X-Request-Timeout-Ms", "100"),
        ("Transfer-Encoding", "chunked"),
    ],
    ids=str,
)
def test_a_request_with_wishes_is_for_the_application(header: tuple[str, str]) -> None:
    assert taken(LENGTH, header) == 0


def test_a_request_with_two_media_types_is_for_the_application() -> None:
    picture, text = ("Content-Type", "image/png"), ("Content-Type", "text/plain")
    assert taken(LENGTH, picture, text) == 0
    assert taken(LENGTH, text, picture) == 0


@pytest.mark.parametrize("length", ["", "0", "x", "-1", "9" * 30])
def test_a_request_without_a_body_that_could_be_one_is_for_the_application(length: str) -> None:
    assert taken(("Content-Length", length)) == 0
