"""Requests that offer to change the protocol are answered over HTTP/1.1."""

import socket

import pytest

from tests.helpers import RunningService
from tests.hostile.wire import CLOSE, JPEG, LIVE, POST, answers, ask, connect, received, send

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
