"""Bytes as they are, over a socket."""

import json
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.helpers import EXAMPLES, RunningService

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
POST = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
CLOSE = b"Connection: close\r\n\r\n"


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def connect(service: RunningService, timeout: float = 60) -> socket.socket:
    return socket.create_connection((service.client.base_url.host, service.client.base_url.port), timeout)


def send(connection: socket.socket, data: bytes) -> None:
    """Send all data, or as much as the service accepts."""
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(data)


def received(connection: socket.socket) -> bytes:
    """Everything until the service closes the connection."""
    content = b""
    with suppress(ConnectionResetError):  # it closed without having read all
        while piece := connection.recv(65536):
            content += piece
    return content


def answers(content: bytes) -> list[Answer]:
    """The answers in what was received."""
    found = []
    while content:
        head, _, content = content.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = int(headers.get("content-length", 0))
        found.append(Answer(int(first.split()[1]), headers, content[:length]))
        content = content[length:]
    return found


def ask(service: RunningService, data: bytes) -> list[Answer]:
    """Send `data`, nothing more, and read until the service closes."""
    with connect(service) as connection:
        send(connection, data)
        return answers(received(connection))


def is_problem(answer: Answer, status: int, code: str) -> bool:
    """Whether it is this error in the form of our own addresses, after which the connection closes."""
    return (
        (answer.status, answer.json["code"], answer.json["status"]) == (status, code, status)
        and answer.headers["content-type"] == "application/problem+json"
        and answer.headers["x-request-id"] == answer.json["request_id"]
        and answer.headers["connection"] == "close"
        and answer.headers["x-content-type-options"] == "nosniff"
    )
