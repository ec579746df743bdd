"""Stops work for callers who hung up.

connection is lost --Connection--> client_left(scope) --> the request's task, where it works on the answer
"""

import asyncio
from collections.abc import Mapping, MutableMapping
from types import TracebackType
from typing import Any, Protocol

from starlette.requests import ClientDisconnect

_LEFT, _ON_LEAVING = "aaserve.client_left", "aaserve.on_leaving"  # in the request's scope


class Asked(Protocol):
    """A request, of whichever layer."""

    @property
    def scope(self) -> Any: ...


def client_left(scope: MutableMapping[str, Any]) -> None:
    """Note that nobody waits for the answer to this request; noting it again changes nothing."""
    if _LEFT in scope:
        return
    scope[_LEFT] = True
    if on_leaving := scope.get(_ON_LEAVING):
        on_leaving()


def has_left(scope: Mapping[str, Any]) -> bool:
    """Whether nobody waits for the answer to this request: how it ends is then no fault of the service."""
    return _LEFT in scope


class unless_client_leaves:  # noqa: N801 (reads as the statement that it is)
    """`with unless_client_leaves(request)`: run the block in a task, which is cancelled where nobody waits for it.

    Raises:
        ClientDisconnect: the client closed the connection first.
    """

    __slots__ = ("_scope", "_working")

    def __init__(self, request: Asked) -> None:
        self._scope: MutableMapping[str, Any] = request.scope

    def __enter__(self) -> None:
        working = asyncio.current_task()
        assert working is not None
        if _LEFT in self._scope:
            raise ClientDisconnect
        self._working = working
        self._scope[_ON_LEAVING] = working.cancel

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del self._scope[_ON_LEAVING]
        if kind is asyncio.CancelledError and _LEFT in self._scope and not self._working.uncancel():
            raise ClientDisconnect from None  # nobody else wanted it to end
