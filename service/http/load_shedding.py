"""Load shedding: refuse a request from its head while no model has room, before routes look at it.

request --> Observation --> Auth --> a model with room? --no--> 429 or 503; the server discards the body
                                            |
                                           yes --> routes, which ask again for the model that is meant (inference.py)

Under overload most requests end here, so this must cost little: at ten times the capacity, what refusals cost is
taken from the answers.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import ServiceError
from service.http.addresses import inference_endpoint
from service.http.error_responses import problem
from service.http.params import TIMEOUT_HEADER
from service.observability.request_record import Record
from service.repository.lifecycle import Lifecycle
from service.settings import Settings

_TIMEOUT_HEADER = TIMEOUT_HEADER.lower().encode()


class LoadShedding:
    """Pure ASGI middleware, the innermost."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in ("POST", "PUT"):
            endpoint = inference_endpoint(scope["path"])
            if endpoint and (refusal := self._refusal(scope)):
                record: Record = scope["state"]["record"]
                record.error, record.endpoint = refusal, endpoint
                await problem(refusal, record.request_id, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ServiceError | None:
        lifecycle: Lifecycle = scope["app"].state.lifecycle
        return lifecycle.refusal(timeout=self._timeout(scope) / 1000)

    def _timeout(self, scope: Scope) -> int:
        """Milliseconds that the request has; if its header makes no sense, the route will say so."""
        longest = self._settings.request_timeout_ms
        for name, value in scope["headers"]:
            if name == _TIMEOUT_HEADER and value.isdigit():
                return min(longest, int(value[:9])) or longest
        return longest
