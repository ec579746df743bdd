"""POST /classify with nothing but a picture: from uvicorn's request to its answer in one coroutine.

head --Connection--> a picture, and no wishes? --no--> Observation, routes
                             |
                            yes --> body --> Predictor --> answer, in one write --> Observer

Most requests are of this kind, and what frameworks do around them takes as long as all the rest of the event loop's
part (docs/decisions/0024). It answers as `routes.classify` does, which answers everything else.
"""

import logging
from typing import TYPE_CHECKING, Any

from starlette.datastructures import State
from starlette.requests import ClientDisconnect

from service.answer import Answer
from service.deadlines import until
from service.disconnect import has_left, unless_client_leaves
from service.errors import ServiceError
from service.lifecycle import Lifecycle
from service.observation import Observer, Record, answer_headers, request_id
from service.parameters import TIMEOUT_HEADER, checked_top_k, deadline_of
from service.problems import problem
from service.routes import CLASSIFY, answer_body
from service.settings import Settings
from service.uploads import is_raw

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from service.connection import Connection

_WISHES = frozenset({TIMEOUT_HEADER.lower().encode(), b"transfer-encoding"})
_JSON = (b"content-type", b"application/json")
log = logging.getLogger("aaserve")


class ShortWay:
    """What a `Connection` asks before it gives a request to the application.

    Args:
        state: of the application, with its lifecycle once that has begun.
    """

    def __init__(self, state: State, settings: Settings, observer: Observer) -> None:
        self._state = state
        self._settings = settings
        self._observer = observer
        self._metrics = observer.metrics
        self._disconnected = observer.metrics.rejected.labels("disconnected")

    def picture_bytes(self, cycle: "RequestResponseCycle") -> int:
        """The size of the picture that the request is, as far as its head says; 0 if it is of another kind."""
        scope = cycle.scope
        if scope["path"] != CLASSIFY or scope["method"] != "POST" or scope["query_string"]:
            return 0
        media_type, length = b"", b""
        for name, value in scope["headers"]:
            if name == b"content-length":
                length = value
            elif name == b"content-type":
                if media_type:
                    return 0
                media_type = value
            elif name in _WISHES:
                return 0
        declared = int(length[:20]) if length.isdigit() else 0
        return declared if declared <= self._settings.max_body_bytes and is_raw(media_type.decode("latin-1")) else 0

    async def answer(self, cycle: "RequestResponseCycle", size: int, connection: "Connection") -> None:
        """Answer the request of a picture of this size; however it ends, it is counted and logged."""
        record = Record(request_id(cycle.scope["headers"]), endpoint=CLASSIFY)
        self._metrics.being_answered += 1
        try:
            answer = await self._answer(cycle, size, record)
            answer.headers += answer_headers(record, self._state.lifecycle)
            if not await connection.respond(cycle, answer):
                raise ClientDisconnect
            record.status = answer.status
        except ClientDisconnect:
            self._disconnected.inc()
        finally:
            if not cycle.response_complete:
                connection.transport.close()  # who asked has left; or nobody knows why, and should wait for it
            self._metrics.being_answered -= 1
            self._observer.ended(record, "POST", CLASSIFY)

    async def _answer(self, cycle: "RequestResponseCycle", size: int, record: Record) -> Answer:
        try:
            body = await self._classified(cycle, size, record)
        except ClientDisconnect:
            raise
        except ServiceError as error:
            record.error = error
        except Exception as error:
            if has_left(cycle.scope):  # the request was given up, and any error may come of that
                raise ClientDisconnect from error
            log.error("request %s failed", record.request_id, exc_info=error)
        else:
            return Answer(200, [(b"content-length", b"%d" % len(body)), _JSON], body)
        return Answer.of(problem(record.error or ServiceError(), record.request_id, CLASSIFY))

    async def _classified(self, cycle: "RequestResponseCycle", size: int, record: Record) -> bytes:
        """As `routes.classify`."""
        lifecycle: Lifecycle = self._state.lifecycle
        predictor = lifecycle.repository.predictor(None, None)
        record.asks(predictor.manifest)
        timeout, deadline = deadline_of(None, self._settings)
        with predictor.admission.admit(body_bytes=size, timeout=timeout):
            picture = await _body(cycle, deadline)
            record.received()
            with unless_client_leaves(cycle):
                prediction = await predictor.predict(picture, top_k=checked_top_k(None, predictor), deadline=deadline)
        record.predicted(prediction.stages, prediction.batch_size)
        return answer_body(predictor.manifest, prediction.predictions)


async def _body(cycle: "RequestResponseCycle", deadline: float) -> bytes:
    """All of it; what is small has mostly come with its head."""
    if not cycle.more_body and not cycle.disconnected:
        body, cycle.body = bytes(cycle.body), bytearray()
        return body
    pieces: list[bytes] = []
    async with until(deadline):
        while True:
            message: Any = await cycle.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            pieces.append(message["body"])
            if not message["more_body"]:
                return b"".join(pieces)
