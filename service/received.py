"""Bytes that have come and that the parser has not seen, in pieces that let it see one request at a time."""

_BLANK_LINE = b"\r\n\r\n"


class Received:
    """True while there are some; `body_left` is how many of the next ones are a body, if its head declares a length."""

    def __init__(self) -> None:
        self.body_left = 0
        self._bytes = b""
        self._taken = 0
        self._last = b""  # bytes of the piece before: a blank line may come in two pieces

    def __bool__(self) -> bool:
        return self._taken < len(self._bytes)

    def add(self, data: bytes) -> None:
        """Put `data` behind what is there."""
        self._bytes = self._bytes[self._taken :] + data
        self._taken = 0

    def clear(self) -> None:
        """Drop all, and the memory that it takes."""
        self._bytes, self._taken = b"", 0

    def take(self) -> memoryview:
        """The next bytes, up to where a request may end: after a blank line, or after a declared length.

        A piece that ends before a request does is fine; none goes beyond its end.
        """
        start, self._taken = self._taken, self._end_of_piece()
        piece = memoryview(self._bytes)[start : self._taken]
        self._last = (self._last + piece[-3:])[-3:]
        return piece

    def _end_of_piece(self) -> int:
        start, end = self._taken, len(self._bytes)
        if self.body_left:
            stop = min(start + self.body_left, end)
            self.body_left -= stop - start
            return stop
        torn = (self._last + self._bytes[start : start + 3]).find(_BLANK_LINE)
        if torn >= 0:
            return start + torn + len(_BLANK_LINE) - len(self._last)
        found = self._bytes.find(_BLANK_LINE, start)
        return found + len(_BLANK_LINE) if found >= 0 else end
