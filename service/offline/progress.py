"""One line on a terminal: how many pictures are done, how fast, and how long it will take."""

import sys
import time

_WIDTH = 24
_PAUSE = 0.1  # seconds between two changes of the line


class Progress:
    """Counts; shows a bar if `shown`.

    Args:
        total: pictures, those of earlier runs included.
        done: pictures of earlier runs.
    """

    def __init__(self, total: int, done: int, *, shown: bool) -> None:
        self._total, self._done, self._before = total, done, done
        self._shown = shown
        self._started = time.monotonic()
        self._drawn = 0.0

    def advance(self, failed: int) -> None:
        """One more is done; `failed` are those without an answer by now."""
        self._done += 1
        now = time.monotonic()
        if self._shown and now - self._drawn >= _PAUSE:
            self._drawn = now
            sys.stderr.write(f"\r\x1b[K{self._line(now, failed)}")
            sys.stderr.flush()

    def end(self, failed: int) -> str:
        """Remove the bar; return what was done, for people."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
        seconds = time.monotonic() - self._started
        new = self._done - self._before
        words = f"{new:,} pictures in {seconds:.1f} s ({new / max(seconds, 1e-9):,.1f} a second)"
        if self._before:
            words += f"; {self._before:,} were answered before"
        return words + (f"; {failed:,} without an answer" if failed else "")

    def _line(self, now: float, failed: int) -> str:
        filled = _WIDTH * self._done // self._total
        speed = (self._done - self._before) / max(now - self._started, 1e-9)
        minutes, seconds = divmod(round((self._total - self._done) / speed), 60)
        line = f"[{'#' * filled}{' ' * (_WIDTH - filled)}] {self._done:,}/{self._total:,}  {speed:,.1f}/s"
        return f"{line}  {minutes}:{seconds:02} left" + (f"  {failed:,} failed" if failed else "")
