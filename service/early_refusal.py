"""Refuses from the head alone what cannot be served now: before routing, before a byte of the body is read.

request --> Observation --> room for it? --no--> 429 or 503
                                 |
                                yes --> routes

Under overload nearly every request ends here, so this is the cheapest way through the service. What it lets through,
the route looks at again, with all it knows by then.
"""

import re
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from service.lifecycle import Lifecycle
from service.observation import Record
from service.parameters import TIMEOUT_HEADER
from service.problems import problem
from service.settings import Settings

_USES_A_MODEL = re.compile(
    r"/classify|/classify/batch|/explain|/predictions/[^/]+(/[^/]+)?|/v2/models/[^/]+(/versions/[^/]+)?/infer"
)
_TIMEOUT_HEADER = TIMEOUT_HEADER.lower().encode()
_LENGTH_HEADER = b"content-length"


class EarlyRefusal:
    """Pure ASGI middleware, just inside `Observation`."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or scope["method"] not in ("POST", "PUT")
            or not _USES_A_MODEL.fullmatch(scope["path"])
        ):
            await self._app(scope, receive, send)
            return
        lifecycle: Lifecycle = scope["app"].state.lifecycle
        timeout_ms, length = self._limits(scope)
        refusal = lifecycle.refusal(body_bytes=length, timeout=timeout_ms / 1000)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        record: Record = scope["state"]["record"]
        record.endpoint = _endpoint(scope["path"])
        record.error = refusal
        await problem(refusal, record.request_id, scope["path"])(scope, receive, send)

    def _limits(self, scope: Scope) -> tuple[int, int]:
        """Milliseconds and bytes that the request asks for; where it makes no sense, as much as is allowed."""
        timeout_ms, length = self._settings.request_timeout_ms, self._settings.max_body_bytes
        for name, value in scope["headers"]:
            if name == _TIMEOUT_HEADER and value.isdigit():
                timeout_ms = min(timeout_ms, int(value[:9])) or timeout_ms
            elif name == _LENGTH_HEADER and value.isdigit():
                length = min(length, int(value[:20]))
        return timeout_ms, length


@lru_cache(maxsize=256)
def _endpoint(path: str) -> str:
    """The path as its route has it: the metrics must not have a label for whatever somebody types."""
    path = re.sub("^/v2/models/[^/]+", "/v2/models/{model}", path)
    path = re.sub("/versions/[^/]+", "/versions/{version}", path)
    return re.sub(
        "^/predictions/[^/]+", "/predictions/{model}", re.sub("^(/predictions/[^/]+)/.+", r"\1/{version}", path)
    )
