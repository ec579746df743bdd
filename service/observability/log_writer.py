"""Log record --> line --> bounded queue --> one thread, now and then --> stderr, in order.

Logging never waits for the reader of the log: a pipe that is not read and a full disk cost lines, which are counted,
and no requests. The thread does not wake up for each line: it writes all that have come.
"""

import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from aaserve.service.threads import OnEnd, start, take_turns

CAPACITY = 4 * 2**20  # bytes waiting, at most: some 10,000 lines
LINE = 100  # bytes that a waiting line takes besides its text
REST = 0.05  # seconds between two looks at what waits (benchmarks/NOTES.md)
PATIENCE = 2.0  # seconds that the end of the process waits for its last lines
log = logging.getLogger("aaserve")


class LogWriter(logging.Handler):
    """Writes whole lines, as many at once as a pipe takes without mixing them with those of other processes.

    Args:
        descriptor: the file to write to.
        capacity: bytes that may wait; what comes then is dropped.
    """

    def __init__(self, descriptor: int, *, capacity: int = CAPACITY) -> None:
        super().__init__()
        self.on_dropped: Callable[[], None] = lambda: None
        self.on_end: OnEnd = lambda error: None
        self._descriptor = descriptor
        self._capacity = capacity
        self._lines: deque[bytes] = deque()
        self._came = self._left = 0  # bytes in all; the logging thread counts the first, the writing thread the second
        self._coming = threading.RLock()  # a signal's handler may log, too
        self._some = threading.Event()
        self._closing = threading.Event()
        self._dropped = 0  # and not reported yet
        self._torn = False
        # A daemon: a write that never returns must not keep the process.
        self._thread = start("log", self._run, lambda error: self.on_end(error))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
        else:
            self.line(line)

    def line(self, text: str) -> None:
        """Write a line as it is, sooner or later or not at all."""
        line = f"{text}\n".encode(errors="backslashreplace")
        with self._coming:
            fits = self._came + len(line) + LINE <= self._left + self._capacity
            if fits:
                self._came += len(line) + LINE
                self._lines.append(line)
        if not fits:
            self._drop(1)
        elif not self._some.is_set():
            self._some.set()

    def close(self) -> None:
        """Write what waits, as far as that is possible; logging itself calls this at the end of the process."""
        self._closing.set()
        self._some.set()
        self._thread.join(PATIENCE)
        if not self._thread.is_alive():
            with suppress(Exception):  # what it has left, where it ended unexpectedly; that may well happen again
                self._write_all()
        super().close()

    def _run(self) -> None:
        take_turns()
        while not self._closing.wait(REST):
            self._some.wait()
            self._some.clear()
            self._write_all()
        self._write_all()

    def _write_all(self) -> None:
        while self._lines:
            lines = [self._next()]
            size = len(lines[0])
            while self._lines and (size := size + len(self._lines[0])) <= select.PIPE_BUF:
                lines.append(self._next())
            if self._write(b"".join(lines)) and self._dropped:
                dropped, self._dropped = self._dropped, 0
                message = "%d log lines were dropped before this one"
                self.emit(log.makeRecord(log.name, logging.WARNING, __file__, 0, message, (dropped,), None))

    def _next(self) -> bytes:
        line = self._lines.popleft()
        self._left += len(line) + LINE
        return line

    def _write(self, lines: bytes) -> bool:
        """Whether all of it is written; what is not, is dropped."""
        if self._torn:
            lines = b"\n" + lines
        left = lines
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:  # a full disk, or a pipe without a reader
            self._drop(left.count(b"\n") - (self._torn and left == lines))
        if left != lines:
            self._torn = not lines.endswith(b"\n", 0, len(lines) - len(left))
        return not left

    def _drop(self, lines: int) -> None:
        self._dropped += lines  # approximate where threads meet; the metric is exact
        for _ in range(lines):
            self.on_dropped()
