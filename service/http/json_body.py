"""A JSON body --> a value, or what is wrong with the body in words for the client."""

import json
from typing import Any

from aaserve.bundle.decoding import sniff_format
from aaserve.service.errors import InvalidRequest

GZIP = b"\x1f\x8b"  # its magic number
_KINDS = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array"}


def parse_json(body: bytes, *, expected: str, image_hint: str) -> Any:
    """Parse a body, with or without a byte order mark.

    Args:
        expected: in the message about a body that is empty.
        image_hint: how to send a picture as the body, in the message about a body that is one.

    Raises:
        InvalidRequest: it is not JSON, or gives one name two different values.
    """
    if not body:
        raise InvalidRequest(f"the body is empty; expected {expected}")
    if found := sniff_format(body):
        raise InvalidRequest(f"the body is a {found} image, not JSON; {image_hint}")
    if body.startswith(b"--"):
        raise InvalidRequest(f"the body is a multipart form, not JSON; expected {expected}")
    if body.startswith(GZIP):
        raise InvalidRequest("the body is gzip data, not JSON; send Content-Encoding: gzip")
    try:
        return json.loads(body, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: line {error.lineno}, column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest("the body is not JSON: it is not UTF-8 text") from error
    except RecursionError as error:
        raise InvalidRequest("the JSON is nested too deeply") from error
    except ValueError as error:  # Python reads no number of more than 4300 digits
        raise InvalidRequest("the JSON has a number with too many digits") from error


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of these members; Python itself would take the last of two values without a word."""
    content = dict(members)
    if len(content) < len(members):
        for name, value in members:
            if content[name] != value:
                raise InvalidRequest(f"the JSON has {name[:40]!r} more than once, with different values")
    return content


def kind_of(value: object) -> str:
    """What JSON calls a value."""
    return _KINDS.get(type(value), "an object")
