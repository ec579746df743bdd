"""Long strings and arrays of numbers, cut out of a JSON body before the rest of it is parsed.

body --cut--> a short document, with NaN for each long value --json--> the same document with `LongText`, `NumberArray`

A parser holds the interpreter lock from the first byte to the last, and makes an object of each number. Nearly all
bytes of a body are base64 or the data of a tensor. These are read piece by piece, and the rest is bounded.
JSON has no NaN, so nothing that a client writes can be mistaken for one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from aaserve.service.errors import InvalidRequest
from aaserve.service.threads import hand_over

PIECE = 65_536  # bytes that are worked on at once, for less than a millisecond
_COUNTED = 2**20  # bytes in which brackets are counted at once, as quickly
LONG = 8192  # bytes of a string; longer ones are cut out
MAX_TEXT = 65_536  # bytes that may be left
MAX_TEXT_OF_ITEM = LONG + 64  # and so many more for each picture or row
MAX_VALUES = 2_000  # that may be left, and one more for each picture or row
_PLACE = b"NaN"
_DATA = b'"data"'  # the Open Inference Protocol's name of an array of numbers
_BEFORE_ARRAY = re.compile(rb"[ \t\r\n]{0,64}:[ \t\r\n]{0,64}(?=\[)")
_SHORT_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_MISPLACED_BRACKET = re.compile(rb"[^\s,\[]\s*\[|\]\s*[^\s,\]]")  # beside a number
_NOT_STRUCTURE = b"0123456789.eE+- \t\r\n"
_BACKSLASH = ord("\\")


@dataclass(frozen=True, slots=True, eq=False)
class LongText:
    """A string as it is in the body: between its quotes, with its escapes. Equal only to itself."""

    content: memoryview


@dataclass(frozen=True, slots=True, eq=False)
class NumberArray:
    """An array of numbers, or of such arrays: the body, and where in it the array is. Equal only to itself."""

    body: bytes
    start: int
    end: int

    def __len__(self) -> int:
        """Its bytes."""
        return self.end - self.start

    def pieces(self) -> Iterator[tuple[bytes, list[Any]]]:
        """Parse piece by piece: the brackets and commas of each, which are for the caller to compare, and its numbers.

        Raises:
            InvalidRequest: it is not JSON.
        """
        start = self.start
        while start < self.end:
            stop = self.end
            if stop - start > PIECE:
                stop = self.body.rfind(b",", start, start + PIECE)
                if stop <= start:
                    raise InvalidRequest("the JSON has a number with too many digits, or too many blanks")
            piece = self.body[start:stop]
            if _MISPLACED_BRACKET.search(piece):
                raise InvalidRequest("the JSON has a malformed array of numbers")
            try:  # as one array: a list for each pixel would take most of the time
                numbers = from_json(b"[" + piece.translate(None, b"[]") + b"]", cache_strings=False)
            except ValueError:
                raise InvalidRequest("the JSON has a malformed array of numbers") from None
            structure = piece.translate(None, _NOT_STRUCTURE)
            yield structure if stop == self.end else structure + b",", numbers
            start = stop + 1
            if stop < self.end:
                hand_over()


LongValue = LongText | NumberArray


@dataclass(frozen=True, slots=True)
class Shortened:
    """A body without its long values.

    Args:
        text: JSON, with NaN in the place of each of `values`, in their order.
        cuts: where in `text` each of them is, and how many bytes of the body are not in `text`.
    """

    text: bytes
    values: list[LongValue]
    cuts: list[tuple[int, int]]

    def place(self, position: int) -> int:
        """The place in the body of a position in `text`."""
        return position + sum(missing for at, missing in self.cuts if at < position)


def shortened(body: bytes, *, max_items: int) -> Shortened:
    """Cut the long values out.

    Args:
        max_items: pictures or rows that the body may have.

    Raises:
        InvalidRequest: too much is left, or it is not JSON.
    """
    max_text, max_values = MAX_TEXT + MAX_TEXT_OF_ITEM * max_items, MAX_VALUES + 2 * max_items  # a data URI has a comma
    strings = 0
    kept: list[bytes] = []
    values: list[LongValue] = []
    cuts: list[tuple[int, int]] = []
    size = start = position = 0  # size: of what is kept; start: of what is not looked at yet

    def keep(stop: int) -> None:
        nonlocal size
        size += stop - start
        if size > max_text:
            raise InvalidRequest(f"the JSON has more than {max_text} bytes of values beside its pictures and numbers")
        kept.append(body[start:stop])

    while (quote := body.find(b'"', position)) >= 0:
        strings += 1
        if quote - start + size > max_text or strings > 2 * max_values:
            break
        _refuse_names_of_no_number(body[position:quote])
        position = _end_of_string(body, quote)
        if found := _long_value(body, quote, position):
            value, begin, position = found
            keep(begin)
            cuts.append((size, position - begin - len(_PLACE)))
            kept.append(_PLACE)
            size += len(_PLACE)
            values.append(value)
            start = position
    keep(len(body))
    _refuse_names_of_no_number(body[position:])
    text = b"".join(kept)
    if strings > 2 * max_values or sum(map(text.count, (b",", b"[", b"{"))) > max_values:
        raise InvalidRequest(f"the JSON has more than {max_values} values beside its pictures and numbers")
    return Shortened(text, values, cuts)


def _long_value(body: bytes, quote: int, end: int) -> tuple[LongValue, int, int] | None:
    """The long value that a string is, or that it names, and where the value begins and ends; None for any other."""
    if end - quote > LONG:
        return LongText(memoryview(body)[quote + 1 : end - 1]), quote, end
    if body.startswith(_DATA, quote) and (before := _BEFORE_ARRAY.match(body, end)):
        start = before.end()
        if stop := _end_of_numbers(body, start):
            return NumberArray(body, start, stop), start, stop
    return None


def _end_of_string(body: bytes, quote: int) -> int:
    """The place behind the closing quote of the string that begins at `quote`."""
    end = body.find(b'"', quote + 1)
    if end < 0:
        raise InvalidRequest("the body is not JSON: a string does not end")
    if body[end - 1] != _BACKSLASH:
        return end + 1
    found = _SHORT_STRING.match(body, quote, quote + LONG)
    if found is None:
        raise InvalidRequest(f"a string with an escaped quote or backslash has more than {LONG} bytes")
    return found.end()


def _end_of_numbers(body: bytes, start: int) -> int | None:
    """The place behind the array that begins at `start`; None if it has texts, objects or brackets too many."""
    stop = len(body)
    for behind in (b'"', b"}"):  # each in what is left, so that many arrays are no more work than a long one
        found = body.find(behind, start, stop)
        stop = found if found >= 0 else stop
    balance = 0
    for at in range(start, stop, _COUNTED):
        balance += body.count(b"[", at, min(at + _COUNTED, stop)) - body.count(b"]", at, min(at + _COUNTED, stop))
        if at + _COUNTED < stop:
            hand_over()
    return body.rfind(b"]", start, stop) + 1 if balance == 0 else None


def _refuse_names_of_no_number(text: bytes) -> None:
    """Raise InvalidRequest for NaN and Infinity, which Python would read."""
    if b"N" in text or b"I" in text:
        raise InvalidRequest("the body is not JSON: it has NaN or Infinity")
