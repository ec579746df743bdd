"""Who may ask what, where there are keys: settled before routing and before a byte of the body is read.

request --> Observation --> a key, and for this? --no--> 401 or 403
                                   |
                                  yes --> routes

A key comes as `Authorization: Bearer KEY` and in no other way: addresses end up in logs and histories.
"""

import hashlib
import re
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_network

from starlette.types import ASGIApp, Receive, Scope, Send

from aaserve.service.errors import Forbidden, InvalidRequest, ServiceError, Unauthorized
from aaserve.service.http.error_responses import error_response
from aaserve.service.http.keys import Keys
from aaserve.service.observability.request_record import Record

OPEN = "no key is needed"
ANY = "any key will do"
# What is not listed needs `infer`: a new address is closed until it is added here. The patterns end as those of
# Starlette's routes do ("$" also allows a last line feed), so that both always mean the same request.
_NEEDS = [
    (re.compile(pattern), needs)
    for pattern, needs in (
        (r"/(health/(live|ready)|v2/health/(live|ready)|ping)$", OPEN),  # they tell nothing of the models
        (r"/(page/examples/[^/]+|openapi\.json)?$", OPEN),  # the same in every service
        (r"/metrics$", "metrics"),
        (r"/admin/|/v2/repository/models/", "admin"),
        (r"/models(/[^/]+)?$|/page/models/|/v2/repository/index$", ANY),
        (r"/v2(/models(/[^/]+(/versions/[^/]+)?(/(ready|config|stats|versions))?)?)?$", ANY),
    )
]


class Access:
    """Pure ASGI middleware inside `Observation`; there only if there are keys."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = refusal_for(scope["path"], scope["headers"], self._keys) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        record: Record = scope["state"]["record"]
        record.error = refusal
        await error_response(refusal, record.request_id, scope["path"])(scope, receive, send)


def refusal_for(path: str, headers: Iterable[tuple[bytes, bytes]], keys: Keys) -> ServiceError | None:
    """Why a request with these headers may not be made at all; None if it may."""
    needed = needs(path)
    if needed == OPEN:
        return None
    headers = list(headers)
    if sum(name == b"authorization" for name, _ in headers) > 1:
        return InvalidRequest("expected one header Authorization, found several")
    scopes = keys.scopes(_key(headers))
    if not scopes:
        return Unauthorized()
    if needed != ANY and needed not in scopes:
        return Forbidden(f"this key is not for {needed}")
    return None


def needs(path: str) -> str:
    """The scope that a request for this path needs: `infer`, `admin`, `metrics`, `ANY` or `OPEN`."""
    return next((needed for pattern, needed in _NEEDS if pattern.match(path)), "infer")


def client_of(headers: Iterable[tuple[bytes, bytes]], peer: tuple[str, int] | None, keys: Keys | None) -> str:
    """Whose time a request takes: its key where there are keys, else the address of its peer.

    Of an IPv6 address it is the first half, as a single client has all addresses that begin with it.
    """
    if keys is not None:
        return hashlib.sha256(_key(headers)).hexdigest()
    if peer is None:  # a server that does not say
        return ""
    address = peer[0]
    if ":" not in address:
        return address
    if mapped := IPv6Address(address.partition("%")[0]).ipv4_mapped:
        return str(mapped)
    return str(ip_network((address.partition("%")[0], 64), strict=False))


def _key(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    for name, value in headers:
        if name == b"authorization":
            kind, _, key = value.partition(b" ")
            return bytes(key.strip()) if kind.lower() == b"bearer" else b""
    return b""
