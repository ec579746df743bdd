"""A JSON body --> a value, or what is wrong with the body in words for the client.

What is left once the long values are cut out is short, so Python's own parser reads it: it shows every name, also one
that is given twice.
"""

import json
from typing import Any

from aaserve.bundle.pictures.decoding import sniff_format
from aaserve.service.errors import InvalidRequest
from aaserve.service.http.body.long_values import LongText, NumberArray, shortened

GZIP = b"\x1f\x8b"  # its magic number
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    LongText: "a string",
    list: "an array",
    NumberArray: "an array",
}


def parse_json(body: bytes, *, expected: str, image_hint: str, max_items: int = 1) -> Any:
    """Parse a UTF-8 body, with or without a byte order mark; long values in it are `LongText` and `NumberArray`.

    Args:
        expected: in the message about a body that is empty.
        image_hint: how to send a picture as the body, in the message about a body that is one.
        max_items: pictures or rows that the body may have.

    Raises:
        InvalidRequest: it is not JSON, has more values than its items need, or gives one name two values that differ or
            are too long to be compared.
    """
    if not body:
        raise InvalidRequest(f"the body is empty; expected {expected}")
    if found := sniff_format(body):
        raise InvalidRequest(f"the body is a {found} image, not JSON; {image_hint}")
    if body.startswith(b"--"):
        raise InvalidRequest(f"the body is a multipart form, not JSON; expected {expected}")
    if body.startswith(GZIP):
        raise InvalidRequest("the body is gzip data, not JSON; send Content-Encoding: gzip")
    short = shortened(body, max_items=max_items)
    values = iter(short.values)
    try:
        text = short.text.removeprefix(_BYTE_ORDER_MARK).decode()
        return json.loads(text, object_pairs_hook=_object, parse_constant=lambda _: next(values))
    except json.JSONDecodeError as error:
        marked = len(_BYTE_ORDER_MARK) if short.text.startswith(_BYTE_ORDER_MARK) else 0
        place = short.place(marked + len(text[: error.pos].encode()))
        line, column = body.count(b"\n", 0, place) + 1, place - body.rfind(b"\n", 0, place)
        raise InvalidRequest(f"the body is not JSON: line {line}, column {column}") from None
    except UnicodeDecodeError:
        raise InvalidRequest("the body is not JSON: it is not UTF-8 text") from None
    except RecursionError:
        raise InvalidRequest("the JSON is nested too deeply") from None
    except ValueError:  # Python reads no number of more than 4300 digits
        raise InvalidRequest("the JSON has a number with too many digits") from None


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of these members; Python itself would take the last of two values without a word."""
    content = dict(members)
    if len(content) < len(members):
        for name, value in members:
            if content[name] != value:  # values that are long always differ: comparing them would take long
                raise InvalidRequest(f"the JSON has {name[:40]!r} more than once")
    return content


def kind_of(value: object) -> str:
    """What JSON calls a value."""
    return _KINDS.get(type(value), "an object")
