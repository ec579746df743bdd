"""Work that stops when nobody waits for it."""

import asyncio

import pytest
from starlette.requests import ClientDisconnect, Request

from service.disconnect import client_left, unless_client_leaves


def asked() -> Request:
    return Request({"type": "http"})


def test_the_block_is_cancelled_when_the_client_leaves() -> None:
    async def scenario() -> None:
        request = asked()
        asyncio.get_running_loop().call_soon(client_left, request.scope)
        with pytest.raises(ClientDisconnect), unless_client_leaves(request):
            await asyncio.sleep(10)

    asyncio.run(scenario())


def test_the_block_is_not_begun_when_the_client_has_left() -> None:
    async def scenario() -> None:
        request = asked()
        client_left(request.scope)
        with pytest.raises(ClientDisconnect), unless_client_leaves(request):
            pytest.fail("begun")

    asyncio.run(scenario())


def test_who_leaves_after_the_block_cancels_nothing() -> None:
    async def scenario() -> None:
        request = asked()
        with unless_client_leaves(request):
            pass
        client_left(request.scope)
        await asyncio.sleep(0)

    asyncio.run(scenario())


def test_a_task_that_another_cancels_stays_cancelled() -> None:
    async def scenario() -> None:
        async def work(request: Request) -> None:
            with unless_client_leaves(request):
                await asyncio.sleep(10)

        request = asked()
        working = asyncio.ensure_future(work(request))
        await asyncio.sleep(0)
        working.cancel()
        client_left(request.scope)
        with pytest.raises(asyncio.CancelledError):
            await working

    asyncio.run(scenario())
