"""Log record --> line --> bounded queue --> one thread --> stderr, in order.

Whoever logs never waits for whoever reads the log: a pipe that nobody empties and a full disk cost lines, which are
counted, and no requests.
"""

import logging
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

from service.threads import take_turns

CAPACITY = 10_000  # lines waiting, at most: a few MiB
PATIENCE = 2.0  # seconds that the end of the process waits for its last lines
log = logging.getLogger("aaserve")


class LogWriter(logging.Handler):
    """Writes each line with one call, so that lines of several processes do not mix in a pipe.

    Args:
        descriptor: the file to write to.
        capacity: lines that may wait; what comes then is dropped.
    """

    def __init__(self, descriptor: int, *, capacity: int = CAPACITY) -> None:
        super().__init__()
        self.on_dropped: Callable[[], None] = lambda: None
        self._descriptor = descriptor
        self._capacity = capacity
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._dropped = 0  # and not reported yet
        self._torn = False
        # A daemon: a write that never returns must not keep the process.
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
        else:
            self.line(line)

    def line(self, text: str) -> None:
        """Write a line as it is, sooner or later or not at all."""
        if self._lines.qsize() < self._capacity:
            self._lines.put(text)
        else:
            self._drop()

    def close(self) -> None:
        """Write what waits, as far as that is possible; logging itself calls this at the end of the process."""
        self._lines.put(None)
        self._thread.join(PATIENCE)
        super().close()

    def _run(self) -> None:
        take_turns()
        while (text := self._lines.get()) is not None:
            try:
                self._write(f"{text}\n".encode(errors="backslashreplace"))
            except OSError:  # a full disk, or a pipe without a reader
                self._drop()
                continue
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                message = "%d log lines were dropped before this one"
                self.emit(log.makeRecord(log.name, logging.WARNING, __file__, 0, message, (dropped,), None))

    def _write(self, line: bytes) -> None:
        if self._torn:
            line = b"\n" + line
        while line:
            written = os.write(self._descriptor, line)
            line = line[written:]
            self._torn = bool(line)

    def _drop(self) -> None:
        self._dropped += 1  # approximate where threads meet; the metric is exact
        self.on_dropped()
