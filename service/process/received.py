"""Bytes that have come and that the parser has not seen, in pieces that let it see one request at a time."""

_BLANK_LINE = b"\r\n\r\n"


class Received:
    """`left` is how many there are; `body_left` how many of the next ones are a body, if its head declares a length."""

    def __init__(self) -> None:
        self.left = 0
        self.body_left = 0
        self._bytes = b""  # ends with those that are left
        self._last = b""  # bytes of the piece before: a blank line may come in two pieces

    def add(self, data: bytes) -> None:
        """Put `data` behind the bytes that are left."""
        self._bytes = self._bytes[-self.left :] + data if self.left else data
        self.left = len(self._bytes)

    def clear(self) -> None:
        """Drop all, and the memory that it takes."""
        self._bytes, self.left = b"", 0

    def take(self) -> memoryview:
        """The next bytes, up to where a request may end: after a blank line, or after a declared length.

        A piece that ends before a request does is fine; none goes beyond its end.
        """
        end = len(self._bytes)
        start = end - self.left
        if self.body_left:
            end = min(start + self.body_left, end)
            self.body_left -= end - start
            self._last = b""
        else:
            if self._last and (torn := (self._last + self._bytes[start : start + 3]).find(_BLANK_LINE)) >= 0:
                end = start + torn + len(_BLANK_LINE) - len(self._last)
                self._last = b""
            elif (found := self._bytes.find(_BLANK_LINE, start)) >= 0:
                end = found + len(_BLANK_LINE)
                self._last = b""
            else:
                self._last = (self._last + self._bytes[max(start, end - 3) :])[-3:]
        self.left -= end - start
        return memoryview(self._bytes)[start:end]
