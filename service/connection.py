"""uvicorn's HTTP connection, with bounds on what a client may do before there is a request to answer.

opened --head_timeout--> head --MAX_HEAD_BYTES, MAX_HEADERS--> request --> app --> answer --write_timeout--> next head

Whatever is no HTTP is answered here, in the form that its address would have. The body has its bounds in the routes;
only the number of its chunks is counted here.
"""

import asyncio
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.answer import Answer
from service.disconnect import client_left
from service.errors import BodyTooLarge, HeadTimeout, HeadTooLarge, InvalidRequest, ServiceError, TooManyConnections
from service.observation import new_request_id
from service.problems import problem

if TYPE_CHECKING:
    from service.balance import Balance
    from service.early_refusal import EarlyRefusal
    from service.short_way import ShortWay

MAX_HEAD_BYTES = 65_536  # also of trailers and of a chunk's extensions: of all that is neither a request nor its body
MAX_HEADERS = 100
MAX_CHUNKS = 65_536  # of one body; as Triton has it
GOODBYE = 0.2  # seconds
_BODY_HEADERS = (b"content-length", b"transfer-encoding")


class Connection(HttpToolsProtocol):
    """One client's connection; `last_activity` is when it was opened, sent bytes or was answered (loop time)."""

    last_activity: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        state = self.config.app.state  # type: ignore[union-attr]
        self._timeout: float = state.settings.client_timeout_ms / 1000
        self._max_connections: int = state.max_connections
        self._metrics = state.metrics
        self._early_refusal: EarlyRefusal | None = getattr(state, "early_refusal", None)
        self._short_way: ShortWay | None = getattr(state, "short_way", None)
        self._balance: Balance | None = getattr(state, "balance", None)
        self._head_deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._in_head = False
        self._idle_bytes = 0  # received since there was last a head or a piece of a body
        self._head_left = MAX_HEAD_BYTES
        self._headers_left = MAX_HEADERS
        self._chunks_left = MAX_CHUNKS
        self._refusal: ServiceError = InvalidRequest("the request is not HTTP/1.1")
        self._refused = False
        self._discarding = False  # what comes belongs to a request that has its answer
        self._closing = False  # and there will not be another

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.last_activity = self.loop.time()
        super().connection_made(transport)
        if len(self.connections) > self._max_connections:
            self._refuse(TooManyConnections())
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self.awaits_request():
            client_left(self.cycle.scope)  # type: ignore[arg-type]
        if self._balance is not None:
            self._balance.has(len(self.connections))
        for timer in (self._head_deadline, self._write_deadline):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        self.last_activity = self.loop.time()
        self._unset_keepalive_if_required()
        if self._refused:
            return
        self._idle_bytes += len(data)
        try:
            self.parser.feed_data(data)
            if self._idle_bytes > MAX_HEAD_BYTES:
                self._refuse(HeadTooLarge())
        except httptools.HttpParserUpgrade:
            if not self._discarding:
                self.cycle.keep_alive = False  # answered as if it had not asked; what follows is in no protocol of ours
        except httptools.HttpParserError:
            self._refuse(self._refusal)
        if self._head_deadline is None and self.timeout_keep_alive_task is None and self.awaits_request():
            self._expect_head()

    def on_message_begin(self) -> None:
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self._in_head = True
        self._head_left, self._headers_left, self._chunks_left = MAX_HEAD_BYTES, MAX_HEADERS, MAX_CHUNKS

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers_left -= 1
        if self._headers_left < 0:
            self._stop_parsing(HeadTooLarge())
        if self._in_head:  # a trailer is no header: what checked the head has not seen it
            self._head_left -= len(name) + len(value)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._discarding:
            return
        if len(self.url) > self._head_left:
            self._stop_parsing(HeadTooLarge())
        if self.parser.should_upgrade() and any(name in _BODY_HEADERS for name, _ in self.headers):
            self._stop_parsing(InvalidRequest("a request with a body cannot ask for another protocol"))
        if not self._refuse_early():
            super().on_headers_complete()
        self._in_head = False
        self._idle_bytes = 0
        self._forget_head_deadline()

    def on_chunk_header(self) -> None:
        """Called by httptools for each chunk of a body."""
        self._chunks_left -= 1
        if self._chunks_left < 0:
            self._stop_parsing(BodyTooLarge(f"the body has more than {MAX_CHUNKS} chunks"))

    def on_body(self, body: bytes) -> None:
        self._idle_bytes = 0
        if not self._discarding:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._discarding:
            super().on_message_complete()
            if not self.pipeline:  # who leaves is noticed only while the socket is read, which a large body has stopped
                self.flow.resume_reading()
            return
        if self._closing:  # only now: a socket that is closed before all is read takes the answer with it
            self.transport.close()
            return
        self._discarding = False
        self._forget_head_deadline()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def on_response_complete(self) -> None:
        self.last_activity = self.loop.time()
        super().on_response_complete()
        if self._in_head and self._head_deadline is None:  # the next one was begun meanwhile
            self._unset_keepalive_if_required()
            self._expect_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline = self.loop.call_later(self._timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_deadline is not None:
            self._write_deadline.cancel()

    def awaits_request(self) -> bool:
        """Whether the client's turn is next: no request is being received or answered."""
        return self.cycle is None or self.cycle.response_complete

    async def respond(self, cycle: RequestResponseCycle, answer: Answer) -> None:
        """Write the whole answer to a request that the application has not seen."""
        if self.flow.write_paused and not cycle.disconnected:
            await self.flow.drain()
        if cycle.disconnected:
            return
        if CLOSE_HEADER in answer.headers:
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            answer.headers.append(CLOSE_HEADER)
        cycle.response_started = True
        self._write(answer)
        cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def shutdown(self) -> None:
        super().shutdown()
        if self.scheme == "https" and self.awaits_request():
            # TLS waits for the client's goodbye, and a client that has nothing to ask reads ours only when it does.
            self.loop.call_later(GOODBYE, self.transport.abort)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._short_way is None or not (size := self._short_way.picture_bytes(cycle)):
            super()._start_asgi_task(cycle, app)
            return
        task = self.loop.create_task(self._short_way.answer(cycle, size, self))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _refuse_early(self) -> bool:
        """Answer at once what can be refused by its head, unless others come first or the client takes no answers."""
        if self._early_refusal is None or not self.awaits_request() or self.flow.write_paused:
            return False
        if self.parser.should_upgrade():
            return False
        answer = self._early_refusal.answer(self.parser.get_method(), self.url, self.headers)
        if answer is None:
            return False
        last = self.parser.get_http_version() == "1.0" or not self.parser.should_keep_alive()
        if last and CLOSE_HEADER not in answer.headers:
            answer.headers.append(CLOSE_HEADER)
        self._write(answer)
        self._discarding = True
        self._closing = CLOSE_HEADER in answer.headers
        return True

    def _expect_head(self) -> None:
        self._head_deadline = self.loop.call_later(self._timeout, self._head_late)

    def _forget_head_deadline(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _head_late(self) -> None:
        if self._in_head:
            self._refuse(HeadTimeout())
        else:
            self.transport.abort()  # nothing was asked, so there is nothing to answer

    def _stop_parsing(self, refusal: ServiceError) -> None:
        self._refusal = refusal
        raise refusal  # httptools makes an HttpParserError of it, which data_received knows

    def _refuse(self, refusal: ServiceError) -> None:
        """Answer what is not answered yet and never became a request, and close; those before it are still answered."""
        self._refused = True
        self._metrics.rejected.labels(refusal.code).inc()
        if not self.awaits_request() and not self.cycle.more_body:
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if not self._discarding and (self.awaits_request() or not self.cycle.response_started):
            self._metrics.requests.labels("other", "", refusal.status).inc()
            self._answer(refusal)
        self.transport.close()
        if self.scheme == "https":
            self.loop.call_later(GOODBYE, self.transport.abort)

    def _answer(self, refusal: ServiceError) -> None:
        request_id = new_request_id()
        path = (getattr(self, "url", None) or b"/").decode("latin-1")
        response = problem(refusal, request_id, path)
        response.headers["X-Request-ID"] = request_id
        response.headers["Connection"] = "close"
        self._write(Answer.of(response))

    def _write(self, answer: Answer) -> None:
        headers = (*self.server_state.default_headers, *answer.headers)
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        self.transport.write(b"".join([STATUS_LINE[answer.status], *lines, b"\r\n", answer.body]))
