"""uvicorn's HTTP connection, with bounds on what a client may do before there is a request to answer.

opened --head_timeout--> head --MessageLimits--> request --> app --> answer --write_timeout--> next head

Data that is not HTTP is answered here, in the form of the address it was sent to. The routes bound the body; only the
number of its chunks is counted here. The parser sees one request at a time: bytes behind a request wait, unread and
unparsed, until that request is answered.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.flow_control import CLOSE_HEADER, HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from aaserve.service.errors import HeadTimeout, HeadTooLarge, InvalidRequest, ServiceError, TooManyConnections
from aaserve.service.http.observation import UNLOGGED
from aaserve.service.process.answers import encoded, last_answer
from aaserve.service.process.head import check_head, declared_length, without_upgrade
from aaserve.service.process.lingering import LingeringTransport
from aaserve.service.process.message_limits import MAX_HEADERS, MessageLimits
from aaserve.service.process.received import Received

if TYPE_CHECKING:
    from aaserve.service.http.load_shedding import LoadShedding
    from aaserve.service.process.connection_counts import ConnectionCounts
    from aaserve.service.process.connection_limit import ConnectionLimit
    from aaserve.service.settings import Settings

GOODBYE = 0.2  # seconds
PROBES = frozenset(path.encode() for path in UNLOGGED)


class Connection(HttpToolsProtocol):
    """One client's connection; `last_activity` is when it was opened, sent bytes or was answered (loop time)."""

    last_activity: float
    transport: LingeringTransport

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        state = self.config.app.state  # type: ignore[union-attr]
        self._settings: Settings = state.settings
        self._timeout = self._settings.client_timeout_ms / 1000
        self._room: ConnectionLimit = state.room
        self._metrics = state.metrics
        self._balance: ConnectionCounts | None = getattr(state, "balance", None)
        self._load_shedding: LoadShedding | None = getattr(state, "load_shedding", None)
        self._head_deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._received = Received()
        self._in_head = False
        self._in_request = False  # in its head or its body
        self._head_without_upgrade = b""
        self._limits = MessageLimits()
        self._answered_last = False  # a request that was refused by its head is the last one
        self._refused = False
        self._input_ended = False
        self._stopping = False
        self._end_handshake: Callable[[], object] | None = None

    def accepted(self, end_handshake: Callable[[], object]) -> None:
        """Count this connection from now on, before TLS; `end_handshake` ends it while it is not made."""
        self._end_handshake = end_handshake
        self._enter()

    def not_made(self) -> None:
        """Note that TLS failed."""
        self._room.leave(self)
        self._forget_head_deadline()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        entered, self._end_handshake = self._end_handshake is not None, None
        self.last_activity = self.loop.time()
        super().connection_made(LingeringTransport(transport, self.loop, self._timeout, self._more_to_come))
        transport.set_write_buffer_limits(high=1)  # so that `_write_deadline` runs whenever bytes are unsent
        if not entered:
            self._enter()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._room.leave(self)
        self.transport.lost()
        self._drop_input()
        self._unset_keepalive_if_required()
        if self._balance is not None:
            self._balance.has(len(self.connections))
        for timer in (self._head_deadline, self._write_deadline):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        self.last_activity = self.loop.time()
        if self.transport.is_closing():
            self.transport.discarded(len(data))
            return
        self._unset_keepalive_if_required()
        self._received.add(data)
        self._parse()

    def eof_received(self) -> bool:  # type: ignore[override]  # the event loop's meaning of it
        """Go on while an answer is due: a client may shut down its side as soon as it has sent its request.

        TLS has no such half-closed state here: the event loop closes, and the client counts as gone.
        """
        if self.scheme == "https" or self.transport.is_closing():
            return False
        self._input_ended = True
        if not self._received.left:
            self._finish()
        return not self.transport.is_closing()

    def on_message_begin(self) -> None:
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self._in_head = self._in_request = True
        self._limits.begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:  # a trailer is no header: what checked the head has not seen it
            self._limits.trailer(len(self.headers))
        elif len(self.headers) == MAX_HEADERS:
            raise HeadTooLarge
        else:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._limits.check_bytes()
        self._limits.unproductive = 0
        version, probes_only = self.parser.get_http_version(), self._room.is_spare(self)
        if self.parser.should_upgrade():  # the head is parsed again
            method = self.parser.get_method()
            self._head_without_upgrade = without_upgrade(method, self.url, version, self.headers)
            return
        check_head(version, self.headers)
        if probes_only and self.url.partition(b"?")[0] not in PROBES:
            raise TooManyConnections
        self._received.body_left = declared_length(self.headers)
        if not self._shed_load():
            self._room.works(self)
            super().on_headers_complete()
            if probes_only:
                self.cycle.keep_alive = False
        self._in_head = False
        self._forget_head_deadline()

    def on_chunk_header(self) -> None:
        """Called by httptools for each chunk of a body."""
        self._limits.chunk()

    def on_body(self, body: bytes) -> None:
        self._limits.unproductive = 0
        if not self.awaits_request():  # else the request has its answer
            self.cycle.body += body
            self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self._head_without_upgrade:
            return
        self._in_request = False
        if not self.awaits_request():
            super().on_message_complete()
            return
        self._forget_head_deadline()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def on_response_complete(self) -> None:
        self.transport.flush()
        self.last_activity = self.loop.time()
        self._room.waits(self)
        self.cycle.body = bytearray()  # what the application has not read by now, it never will
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._in_request:  # the rest of its body is still to come
            self._unset_keepalive_if_required()
            self._expect_head()
        elif self._received.left:
            self._unset_keepalive_if_required()
            self._parse()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline = self.loop.call_later(self._timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_deadline is not None:
            self._write_deadline.cancel()

    def awaits_request(self) -> bool:
        """Whether the client's turn is next: every request that has come is answered."""
        return self.cycle is None or self.cycle.response_complete

    def give_way(self) -> None:
        """Close at once, in favour of another connection."""
        if self._end_handshake is not None:
            self._end_handshake()
        else:
            self.transport.abort()

    def shutdown(self) -> None:
        self._stopping = True
        self.transport.stop_lingering()
        if not self._received.left:
            super().shutdown()
        if self.scheme == "https" and self.awaits_request():
            # TLS waits for the client's goodbye, and a client that has nothing to ask reads ours only when it does.
            self.loop.call_later(GOODBYE, self.transport.abort)

    def _parse(self) -> None:
        """Feed the parser to the end of one request; what is behind it waits until it is answered."""
        while self._received.left and (self._in_request or (self.awaits_request() and not self._answered_last)):
            self._feed(self._received.take())
            if self._refused:
                return
        if self._answered_last:
            self.transport.close()
            return
        if self._received.left:
            self.flow.pause_reading()
            return
        self._received.clear()
        if self._input_ended or self._stopping:
            self._finish()
        else:
            if self._in_request and not self.awaits_request() and len(self.cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            elif not self._in_request:  # a reset is noticed only while the socket is read
                self.flow.resume_reading()
            if self._head_deadline is None and self.timeout_keep_alive_task is None and self.awaits_request():
                self._expect_head()

    def _feed(self, piece: bytes | memoryview) -> None:
        self._limits.unproductive += len(piece)
        try:
            self.parser.feed_data(piece)
            self._limits.check_bytes()
            return
        except httptools.HttpParserUpgrade as upgrade:
            rest = piece[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            reason = error.__context__  # what one of the callbacks raised
            self._refuse(reason if isinstance(reason, ServiceError) else InvalidRequest("the request is not HTTP/1.1"))
            return
        except HeadTooLarge as refusal:
            self._refuse(refusal)
            return
        head, self._head_without_upgrade = self._head_without_upgrade, b""
        self.parser = httptools.HttpRequestParser(self)  # the old one may wait for the end of the connection
        self._feed(head + rest)

    def _shed_load(self) -> bool:
        """Answer at once if the request can be refused by its head, unless the client takes no answers."""
        if self._load_shedding is None or self.flow.write_paused:
            return False
        answer = self._load_shedding.answer(self.parser.get_method(), self.url, self.headers, self.client)
        if answer is None:
            return False
        last = self._stopping or self.parser.get_http_version() == "1.0" or not self.parser.should_keep_alive()
        headers = [*self.server_state.default_headers, *answer.headers]
        if last and not answer.closes:
            headers.append(CLOSE_HEADER)
        self.transport.write(encoded(answer.status, headers, answer.head, answer.body))
        self._room.waits(self)
        self._answered_last = last or answer.closes
        return True

    def _finish(self) -> None:
        """No further request will be read: answer the one that is here, and close."""
        if not self._input_ended and self._in_request:
            if self.awaits_request():
                self.transport.close()
            else:
                self.cycle.keep_alive = False
        elif self._in_head:
            self._refuse(InvalidRequest("the input ended before the head of the request did"))
        elif self.awaits_request():
            self.transport.close()
        elif self._in_request:  # the application counts it: as a client that has left
            if not self.cycle.response_started:
                self._answer(InvalidRequest("the input ended before the body of the request did"))
            self._give_up_request()
            self.transport.close()
        else:
            self.cycle.keep_alive = False
            if self._input_ended:
                self.transport.watch_for_reset(begin_answer=not self.cycle.response_started)

    def _drop_input(self) -> None:
        """Forget what has come and was not read: connections are in reference cycles, which outlive them."""
        self._received.clear()
        if self.cycle is not None:
            self.cycle.body = bytearray()

    def _give_up_request(self) -> None:
        """Tell the application that the client has disconnected."""
        self.cycle.disconnected = True
        self.cycle.message_event.set()

    def _more_to_come(self) -> bool:
        """Whether the client may still be sending when the connection closes."""
        if self._input_ended or self._stopping:
            return False
        return self._in_request or self._refused or self._received.left > 0

    def _enter(self) -> None:
        if self._room.enter(self):
            self._expect_head()
        else:
            self._metrics.rejected.labels(TooManyConnections.code).inc()
            self.give_way()

    def _expect_head(self) -> None:
        self._head_deadline = self.loop.call_later(self._timeout, self._head_late)

    def _forget_head_deadline(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _head_late(self) -> None:
        if self._in_head:
            self._refuse(HeadTimeout())
        elif self._in_request:
            self.transport.close()  # the request has its answer, and its body takes too long
        else:
            self.give_way()  # nothing was asked, so there is nothing to answer

    def _refuse(self, refusal: ServiceError) -> None:
        """Answer what never became a request, or whose body is no HTTP, unless it has its answer; and close."""
        self._refused = True
        self._forget_head_deadline()
        self._room.waits(self)
        self._metrics.rejected.labels(refusal.code).inc()
        if self.awaits_request():
            answered = self._in_request and not self._in_head
        else:
            answered = self.cycle.response_started
            self._give_up_request()
        if not answered:
            self._metrics.requests.labels("other", "", refusal.status).inc()
            self._answer(refusal)
        self.transport.close()

    def _answer(self, refusal: ServiceError) -> None:
        url, headers = getattr(self, "url", None) or b"/", self.headers or []
        self.transport.write(last_answer(refusal, url, headers, self._settings, self.server_state.default_headers))
