"""What a connection writes to: the head goes with the first piece of the body, and large pieces are not copied."""

import asyncio
from typing import Any

import pytest

from aaserve.service.process.lingering import LingeringTransport

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n"
LARGE = bytes(1_000_000)


class Written(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[Any] = []

    def write(self, data: Any) -> None:
        self.pieces.append(data)


@pytest.fixture
def written() -> Written:
    return Written()


@pytest.fixture
def transport(written: Written) -> LingeringTransport:
    loop = asyncio.new_event_loop()
    loop.close()
    return LingeringTransport(written, loop, patience=1, more_to_come=lambda: False)


def test_a_short_body_is_sent_with_its_head(transport: LingeringTransport, written: Written) -> None:
    transport.write(HEAD)
    transport.write(b"a")
    assert written.pieces == [HEAD + b"a"]


def test_a_large_body_is_sent_as_it_is_behind_its_head(transport: LingeringTransport, written: Written) -> None:
    transport.write(HEAD)
    transport.write(LARGE)
    head, body = written.pieces
    assert head == HEAD
    assert body is LARGE
