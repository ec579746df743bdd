"""Pages of other origins may ask only where the operator has said so."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.cors import cors_headers
from service.settings import Settings
from tests.helpers import EXAMPLES, RunningService, running_service, start_that_fails
from tests.hostile.wire import Answer, answers, connect, received, send
from tests.service.test_access import bearer, lines

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
OURS, THEIRS = "https://app.example", "https://evil.example"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Open to pages of two origins, for those who have a key."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(lines(("infer", "secret")))
    with running_service("--cors-origins", f"{OURS},http://localhost:3000", "--api-keys-file", str(keys)) as running:
        yield running


def preflight(service: RunningService, origin: str, headers: str = "authorization,content-type") -> httpx.Response:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": headers}
    return service.client.options("/classify", headers={"Origin": origin, **asked})


def test_a_page_of_that_origin_asks_first_and_then_sends_its_key(opened: RunningService) -> None:
    for origin in (OURS, "http://localhost:3000"):
        allowed = preflight(opened, origin)  # which browsers send without the key
        assert allowed.status_code == 200
        assert allowed.headers["Access-Control-Allow-Origin"] == origin
        assert "authorization" in allowed.headers["Access-Control-Allow-Headers"].lower()
    answer = opened.client.post("/classify", content=JPEG, headers={"Origin": OURS, **bearer("secret")})
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == OURS
    assert "Server-Timing" in answer.headers["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Credentials" not in answer.headers


def test_that_page_can_read_why_it_was_refused(opened: RunningService) -> None:
    refused = opened.client.post("/classify", content=JPEG, headers={"Origin": OURS})
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, OURS)


@pytest.mark.parametrize("origin", [THEIRS, "http://app.example", f"{OURS}.evil.example", "null"])
def test_a_page_of_another_origin_is_not_let_in(opened: RunningService, origin: str) -> None:
    refused = preflight(opened, origin)
    assert refused.status_code == 400
    assert "Access-Control-Allow-Origin" not in refused.headers
    answer = opened.client.post("/classify", content=JPEG, headers={"Origin": origin, **bearer("secret")})
    assert "Access-Control-Allow-Origin" not in answer.headers  # the browser keeps it from the page


@pytest.mark.parametrize(
    ("bytes_", "status"),
    [(b"A: " + b"b" * 70_000 + b"\r\n\r\n", 431), (b"Content-Length: x\r\n\r\n", 400), (b"A: b\r\n", 400)],
    ids=["too large", "no HTTP", "half a head"],
)
def test_that_page_can_read_what_the_connection_answers(opened: RunningService, bytes_: bytes, status: int) -> None:
    def refused(origin: str) -> Answer:
        with connect(opened) as connection:
            send(connection, f"POST /classify HTTP/1.1\r\nHost: x\r\nOrigin: {origin}\r\n".encode() + bytes_)
            connection.shutdown(socket.SHUT_WR)
            [answer] = answers(received(connection))
            assert answer.status == status
            return answer

    allowed = refused(OURS).headers
    assert (allowed["access-control-allow-origin"], allowed["vary"]) == (OURS, "Origin")
    assert "Retry-After" in allowed["access-control-expose-headers"]
    assert not [name for name in refused(THEIRS).headers if name.startswith("access-control")]


def test_every_page_may_read_it_if_the_setting_says_so() -> None:
    headers = dict(cors_headers(OURS, Settings(cors_origins="*", _cli_parse_args=[])))
    assert headers[b"access-control-allow-origin"] == b"*"
    assert cors_headers(OURS, Settings(_cli_parse_args=[])) == []


def test_unless_it_is_set_no_page_is_let_in(service: RunningService) -> None:
    assert preflight(service, OURS).status_code == 405
    answer = service.client.post("/classify", content=JPEG, headers={"Origin": OURS})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_every_answer_forbids_browsers_to_guess_its_type(service: RunningService) -> None:
    for path in ("/", "/models", "/metrics", "/nowhere", "/health/live", "/page/examples/cat.jpg"):
        assert service.client.get(path).headers.get_list("X-Content-Type-Options") == ["nosniff"]


@pytest.mark.parametrize(
    "origins", ["app.example", "https://app.example/", "https://a.example, https://b.example", "*,x"]
)
def test_what_is_no_origin_stops_the_start(tmp_path: Path, origins: str) -> None:
    """A browser would never send it, so nobody would be let in and nobody would know why."""
    status, stderr = start_that_fails("--cors-origins", origins)
    assert (status, len(stderr.splitlines())) == (1, 1)
    assert stderr.startswith("error: cors_origins: ")
