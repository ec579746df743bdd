"""Bytes that have come, cut so that the parser sees one request at a time."""

from collections.abc import Iterator
from itertools import accumulate, pairwise

import pytest

from aaserve.service.process.received import Received

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na\r\n\r\n0\r\n\r\n"
TRAILED = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\n"
MESSAGES = [GET, CHUNKED, b"\r\n" + GET, TRAILED, GET]
SENT = b"".join(MESSAGES)


def pieces(received: Received, came: list[bytes]) -> Iterator[bytes]:
    for data in came:
        received.add(data)
        while received.left:
            yield bytes(received.take())


def cut(*places: int) -> list[bytes]:
    return [SENT[start:stop] for start, stop in pairwise((0, *places, len(SENT)))]


@pytest.mark.parametrize("came", [cut(), cut(*range(1, len(SENT))), cut(*range(2, len(SENT), 3))])
def test_no_piece_goes_beyond_the_end_of_a_request(came: list[bytes]) -> None:
    found = list(pieces(Received(), came))
    assert b"".join(found) == SENT
    assert set(accumulate(map(len, found))) >= set(accumulate(map(len, MESSAGES)))


def test_no_piece_goes_beyond_the_end_of_a_request_wherever_it_is_torn() -> None:
    for place in range(1, len(SENT) - 1):
        found = list(pieces(Received(), cut(place)))
        assert b"".join(found) == SENT, place
        assert set(accumulate(map(len, found))) >= set(accumulate(map(len, MESSAGES))), place


def test_a_body_of_a_declared_length_is_a_piece_of_its_own_whatever_is_in_it() -> None:
    received, body = Received(), b"\r\n\r\n\r\n" * 3
    received.add(GET + body[:5])
    assert bytes(received.take()) == GET
    received.body_left = len(body)
    assert bytes(received.take()) == body[:5]
    received.add(body[5:] + GET)
    assert [bytes(received.take()) for _ in range(2)] == [body[5:], GET]
    assert not received.left
