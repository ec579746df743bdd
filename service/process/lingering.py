"""A transport that closes without losing the last answer.

close() --client may still be sending--> shut down our side --> discard what comes, bounded --> close
        --otherwise------------------------------------------------------------------------> close

A socket that is closed while data arrives answers with a reset, and the client's kernel then drops the answer that its
program has not read yet. So the client gets the answer and the end of our side first (nginx: lingering_close). TLS
needs none of this: the event loop discards what comes between the two goodbyes.
"""

import asyncio
import select
from collections.abc import Callable
from contextlib import suppress
from typing import Any

LINGER_BYTES = 64 * 2**20  # discarded after the last answer, at most; more than that is not worth reading
RESET_CHECK = 0.1  # seconds between two looks for a reset
_BEGINNING = b"HTTP/1.1 "  # of every answer
_CONTINUE = b"100 "  # the status of what is sent before an answer
_END_OF_HEAD = b"\r\n\r\n"
_JOINED = 65_536  # bytes of a body that are copied behind the head, so that both are sent at once


class LingeringTransport(asyncio.Transport):
    """What a `Connection` writes to.

    The head of an answer waits for the first piece of its body, as ASGI has it, so that both are sent at once if it is
    short.

    Args:
        transport: the event loop's.
        patience: seconds from `close` to the end of the connection, at most.
        more_to_come: whether the client may be sending.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        patience: float,
        more_to_come: Callable[[], bool],
    ) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._patience = patience
        self._more_to_come = more_to_come
        self._begun = False
        self._head = b""  # waits for the body
        self._bytes_left = LINGER_BYTES
        self._end: asyncio.TimerHandle | None = None
        self._reset_check: asyncio.TimerHandle | None = None

    def close(self) -> None:
        if self.is_closing():
            return
        self.flush()
        self._end = self._loop.call_later(self._patience, self._transport.abort)
        if not self._transport.can_write_eof() or not self._more_to_come():
            self._transport.close()
            return
        with suppress(OSError):  # the client has left
            self._transport.write_eof()
        self._transport.resume_reading()

    def discarded(self, size: int) -> None:
        """Note that so many bytes came after `close`."""
        self._bytes_left -= size
        if self._bytes_left < 0:
            self._transport.close()

    def stop_lingering(self) -> None:
        """Close now if `close` was called; what is written is still sent."""
        if self._end is not None:
            self._transport.close()

    def lost(self) -> None:
        """Note that the connection is gone."""
        for timer in (self._end, self._reset_check):
            if timer is not None:
                timer.cancel()

    def watch_for_reset(self, *, begin_answer: bool) -> None:
        """Abort as soon as the client has reset the connection; the event loop does not notice after the end of input.

        A client that has shut down its writing side may be waiting or gone. If it is gone, the first bytes of the
        answer bring a reset: `begin_answer` sends them at once.
        """
        if self._reset_check is not None:
            return
        if begin_answer:
            self._transport.write(_BEGINNING)
            self._begun = True
        self._look_for_reset()

    def write(self, data: Any) -> None:
        if data[-4:] == _END_OF_HEAD and data[:9] == _BEGINNING and data[9:13] != _CONTINUE:  # may be a memoryview
            self._head += data
            return
        head, self._head = self._head, b""
        if self._begun:
            self._begun = False
            head, data = (head.removeprefix(_BEGINNING), data) if head else (head, data.removeprefix(_BEGINNING))
        if len(data) <= _JOINED:
            self._transport.write(head + data)
            return
        if head:
            self._transport.write(head)
        self._transport.write(data)  # as it is: copying it would hold up the event loop

    def flush(self) -> None:
        """Send the head of an answer that has no body."""
        if self._head:
            self.write(b"")

    def is_closing(self) -> bool:
        return self._end is not None or self._transport.is_closing()

    def abort(self) -> None:
        self._transport.abort()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def _look_for_reset(self) -> None:
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), 0)  # errors are always reported
        if any(events & select.POLLERR for _, events in poll.poll(0)):
            self._transport.abort()
        else:
            self._reset_check = self._loop.call_later(RESET_CHECK, self._look_for_reset)
