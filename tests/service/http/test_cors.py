"""Pages of other origins may ask only where the operator has said so."""

import re
import socket
from collections.abc import Iterator

import httpx
import pytest
from pydantic import ValidationError

from aaserve.service.http.cors import cors_headers
from aaserve.service.settings import Settings
from tests.helpers import EXAMPLES, ROOT, RunningService, running_service, start_that_fails
from tests.hostile.wire import Answer, answers, connect, received, send
from tests.service.http.test_auth import bearer, lines

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


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE"])
def test_a_page_may_use_every_method(opened: RunningService, method: str) -> None:
    asked = {"Origin": OURS, "Access-Control-Request-Method": method}
    allowed = opened.client.options("/predictions/aa-cifar100", headers=asked)
    assert allowed.status_code == 200
    assert method in allowed.headers["Access-Control-Allow-Methods"].split(", ")
    answer = opened.client.request(method, "/predictions/aa-cifar100", headers={"Origin": OURS, **bearer("secret")})
    assert answer.headers["Access-Control-Allow-Origin"] == OURS  # so that the page can read 405 and Allow


def test_a_page_may_send_every_header_that_the_documents_offer(opened: RunningService) -> None:
    documents = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    offered = {
        *("authorization", "content-type", "content-encoding", "inference-header-content-length", "x-request-id"),
        *("x-request-timeout-ms", "traceparent", "tracestate", "baggage"),
    }
    assert {name for name in offered if name in documents.lower()} == offered
    allowed = preflight(opened, OURS, ",".join(sorted(offered)))
    assert allowed.status_code == 200, allowed.text
    names = allowed.headers["Access-Control-Allow-Headers"].lower().split(", ")
    assert offered <= set(names)


def test_a_page_can_read_every_header_that_the_service_adds(opened: RunningService) -> None:
    def readable(answer: httpx.Response) -> set[str]:
        always = {"cache-control", "content-length", "content-type", "date", "server", "vary", "x-content-type-options"}
        of_the_protocol = {"connection", "transfer-encoding"} | {
            name for name in answer.headers if "access-control" in name
        }
        unreadable = set(answer.headers) - always - of_the_protocol
        assert unreadable <= set(answer.headers["Access-Control-Expose-Headers"].lower().split(", "))
        return unreadable

    lifted = {"Origin": OURS, **bearer("secret")}
    pictures = "/v2/models/aa-cifar100:pictures/infer"
    raw = {"Inference-Header-Content-Length": "0", "Accept-Encoding": "gzip"}
    answers = [
        opened.client.post("/classify", content=JPEG, headers=lifted),
        opened.client.post(pictures, content=JPEG, headers=lifted | raw),
        opened.client.post("/classify", content=JPEG, headers={"Origin": OURS}),
        opened.client.post("/classify", content=JPEG, headers=lifted | {"Content-Encoding": "br"}),
        opened.client.delete("/classify", headers=lifted),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 401, 415, 405]
    assert set().union(*map(readable, answers)) == {
        *("x-request-id", "server-timing", "inference-header-content-length", "content-encoding"),
        *("www-authenticate", "accept-encoding", "allow"),
    }


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
def test_that_page_can_read_answers_of_the_connection(opened: RunningService, bytes_: bytes, status: int) -> None:
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
    request = [(b"origin", OURS.encode())]
    headers = dict(cors_headers(request, Settings(cors_origins="*", _cli_parse_args=[])))
    assert headers[b"access-control-allow-origin"] == b"*"
    assert cors_headers(request, Settings(_cli_parse_args=[])) == []


def test_unless_it_is_set_no_page_is_let_in(service: RunningService) -> None:
    asked = preflight(service, OURS)
    assert asked.status_code == 204
    assert not [name for name in asked.headers if name.startswith("access-control")]
    answer = service.client.post("/classify", content=JPEG, headers={"Origin": OURS})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_every_answer_forbids_browsers_to_guess_its_type(service: RunningService) -> None:
    for path in ("/", "/models", "/metrics", "/nowhere", "/health/live", "/page/examples/cat.jpg"):
        assert service.client.get(path).headers.get_list("X-Content-Type-Options") == ["nosniff"]


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("https://App.Example", "https://app.example"),
        ("HTTPS://app.example", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://app.example:80/", "http://app.example"),
        ("http://app.example:443", "http://app.example:443"),
        ("https://app.example/", "https://app.example"),
        ("http://localhost:03000", "http://localhost:3000"),
        ("http://[0:0::1]:8080", "http://[::1]:8080"),
        (" https://a.example , https://b.example:8443/", "https://a.example,https://b.example:8443"),
        ("https://a.example,https://A.example:443", "https://a.example"),
        ("https://xn--mnchen-3ya.example", "https://xn--mnchen-3ya.example"),
        (" * ", "*"),
        ("", ""),
    ],
)
def test_origins_are_compared_as_browsers_write_them(written: str, sent: str) -> None:
    assert Settings(_cli_parse_args=[], cors_origins=written).cors_origins == sent


@pytest.mark.parametrize(
    ("origins", "words"),
    [
        ("app.example", "'app.example' is no origin"),
        ("*,https://a.example", "'*' is no origin"),
        ("https://a.example,", "'' is no origin"),
        ("https://app.example/page", "'https://app.example/page' is no origin"),
        ("https://user@app.example", "is no origin"),
        ("https://*.example", "is no origin"),
        ("null", "is no origin"),
        ("ftp://app.example", "is no origin"),
        ("https://app.example:99999", "no valid port"),
        ("https://[::x]", "is no origin"),
        ("https://[1::2::3]", "no valid IPv6 address"),
        ("https://münchen.example", "beginning with xn--"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origins: str, words: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(words)):
        Settings(_cli_parse_args=[], cors_origins=origins)


def test_an_invalid_origin_stops_the_start() -> None:
    status, stderr = start_that_fails("--cors-origins", "https://a.example,app.example")
    assert (status, len(stderr.splitlines())) == (1, 1)
    assert stderr.startswith("error: --cors-origins: expected https://HOST[:PORT]")
    assert "'app.example' is no origin" in stderr
