"""Log lines: for people on a terminal, one JSON document a line for machines. log_writer.py takes them to stderr."""

import asyncio
import json
import logging
import sys
import time
from collections import Counter
from typing import Any
from urllib.parse import quote

from aaserve.service.observability.log_writer import LogWriter
from aaserve.service.settings import LogFormat, LogLevel

_READABLE = "/:@!$&'()*+,;=~"  # in a path; the rest, such as a line's end, is logged as %0A
GIVEN, MESSAGE, TRACEBACK = 500, 4_000, 20_000  # characters of what a client gave, of a message and of a traceback
log = logging.getLogger("aaserve")
_encode = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps makes an encoder a line


def configure_logging(log_format: LogFormat, level: LogLevel, *filters: logging.Filter) -> LogWriter:
    """Set up the process's one handler; `auto` is console on a terminal and JSON elsewhere."""
    if log_format == "auto":
        log_format = "console" if sys.stderr.isatty() else "json"
    writer = LogWriter(sys.stderr.fileno())
    writer.setFormatter(JsonFormatter() if log_format == "json" else ConsoleFormatter())
    for each in filters:
        writer.addFilter(each)
    logging.basicConfig(level=level.upper(), handlers=[writer])
    # What no line of ours has is not looked up for each (docs.python.org/3/howto/logging.html#optimization).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.getLogger().level))
    return writer


def log_request(facts: dict[str, Any]) -> None:
    """One line for an answered request; `facts` are plain JSON values."""
    given = {name: shortened(facts[name], GIVEN) for name in ("method", "path")}
    log.info("request", extra={"request": facts | given})


class RefusalLog:
    """One line a second for all requests refused: under overload a line each would cost more than the refusal.

    Belongs to the event loop that `add` is called in.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def add(self, code: str, number: int = 1) -> None:
        """Count refusals, which are logged within a second."""
        self._counts[code] += number
        if self._timer is None:
            loop = asyncio.get_running_loop()
            if self._since is None:
                self._since = loop.time()
            self._timer = loop.call_at(self._since + 1, self._log, loop)

    def close(self) -> None:
        """Log what has not been logged yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._log(asyncio.get_running_loop())

    def _log(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._since is not None
        now = loop.time()
        refused = ", ".join(f"{code} {count}" for code, count in self._counts.items())
        log.warning("requests refused since %.0f s ago: %s", now - self._since, refused)
        self._counts.clear()
        self._since, self._timer = now, None


def shortened(text: str, length: int) -> str:
    """`text` without its middle, if it has more than `length` characters."""
    if len(text) <= length:
        return text
    return f"{text[: length // 2]} … {len(text) - length // 2 * 2} characters … {text[-(length // 2) :]}"


class _BoundedFormatter(logging.Formatter):
    """A line's length does not depend on what an error has to say, which may be all that a client sent."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 (the library's name)
        return shortened(super().formatException(ei), TRACEBACK)


class JsonFormatter(_BoundedFormatter):
    """time, level, message, what is known of the request, its trace, and the traceback if there is one."""

    converter = staticmethod(time.gmtime)
    default_time_format, default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "message": shortened(record.getMessage(), MESSAGE),
            **getattr(record, "request", {}),
        }
        if hasattr(record, "trace_id"):
            line["trace_id"] = record.trace_id
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _encode(line)


class ConsoleFormatter(_BoundedFormatter):
    """One readable line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the library's name)
        record.message = shortened(record.message, MESSAGE)
        line = super().formatMessage(record)
        facts: dict[str, Any] | None = getattr(record, "request", None)
        if facts is None:
            return line
        stages = ", ".join(f"{stage} {milliseconds:.1f}" for stage, milliseconds in facts["stages_ms"].items())
        words = [
            facts["method"],
            quote(facts["path"], safe=_READABLE),
            str(facts["status"]),
            f"{facts['total_ms']:.1f} ms",
        ]
        words += [f"({stages})"] * bool(stages)
        words += [f"{facts['model']}/{facts['version']} batch {facts['batch_size']}"] * bool(facts["model"])
        return f"{line}: {' '.join(words)} {facts['outcome']} {facts['request_id']}"
