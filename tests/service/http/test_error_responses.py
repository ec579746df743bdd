"""Errors keep nothing of the request that they refuse; that bodies go too, body/test_memory.py shows."""

import json
from types import TracebackType

import pytest
from starlette.requests import Request

from aaserve.service.errors import InferenceFailed, InvalidRequest, QueueFull, ServiceError
from aaserve.service.http.error_responses import on_service_error
from aaserve.service.observability.request_record import Record


def raised(error: ServiceError) -> ServiceError:
    """The error as a handler gets it."""
    try:
        try:
            raise KeyError("a cause")
        except KeyError as cause:
            raise error from cause
    except ServiceError as found:
        return found


async def answered(error: ServiceError) -> tuple[Record, bytes]:
    record = Record("id")
    request = Request({"type": "http", "path": "/classify", "state": {"record": record}, "headers": []})
    return record, bytes((await on_service_error(request, error)).body)


def run(error: ServiceError) -> tuple[Record, bytes]:
    """`answered`, without an event loop: nothing in it waits."""
    coroutine = answered(error)
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


@pytest.mark.parametrize("error", [InvalidRequest("x"), QueueFull()], ids=lambda error: error.code)
def test_an_error_that_is_not_logged_keeps_neither_frames_nor_causes(error: ServiceError) -> None:
    record, _ = run(raised(error))
    assert record.error is error
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)


def test_an_error_of_ours_keeps_them_for_the_log() -> None:
    error = raised(InferenceFailed())
    run(error)
    assert isinstance(error.__traceback__, TracebackType)
    assert isinstance(error.__cause__, KeyError)


def test_messages_are_bounded_even_if_they_quote_long_input() -> None:
    _, body = run(InvalidRequest("😀" * 1_000_000))
    assert len(json.loads(body)["detail"]) < 1000
