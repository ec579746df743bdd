"""Stops work for callers who hung up.

connection is lost --Connection--> client_left(scope) --> the request's task, where it works on the answer
"""

import asyncio
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from starlette.requests import ClientDisconnect, Request

_LEFT, _ON_LEAVING = "aaserve.client_left", "aaserve.on_leaving"  # in the request's scope


def client_left(scope: MutableMapping[str, Any]) -> None:
    """Note that nobody waits for the answer to this request."""
    scope[_LEFT] = True
    if on_leaving := scope.get(_ON_LEAVING):
        on_leaving()


@contextmanager
def unless_client_leaves(request: Request) -> Iterator[None]:
    """Run the block in a task, which is cancelled where nobody waits for it.

    Raises:
        ClientDisconnect: the client closed the connection first.
    """
    working = asyncio.current_task()
    assert working is not None
    scope = request.scope
    if _LEFT in scope:
        raise ClientDisconnect
    scope[_ON_LEAVING] = working.cancel
    try:
        yield
    except asyncio.CancelledError:
        if _LEFT in scope and not working.uncancel():  # nobody else wanted it to end
            raise ClientDisconnect from None
        raise
    finally:
        del scope[_ON_LEAVING]
