"""How answers are written: JSON in pieces, in the media type and the content coding that the client accepts.

An encoder holds the interpreter lock from the first byte to the last, so large answers are encoded piece by piece.
"""

import gzip
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from aaserve.service.errors import NotAcceptable
from aaserve.service.threads import hand_over

PIECE = 2048  # values that are encoded at once; as objects they take half a millisecond
_LEVEL = 1
_WORTH_IT = 1024  # bytes; shorter answers are not compressed


def json_array(items: Sequence[Any] | NDArray[Any]) -> bytes:
    """An array of numbers, texts or objects."""
    pieces: list[bytes] = []
    for start in range(0, len(items), PIECE):
        if start:
            hand_over()
        piece = items[start : start + PIECE]
        pieces.append(to_json(piece.tolist() if isinstance(piece, np.ndarray) else piece)[1:-1])
    return b"[" + b",".join(pieces) + b"]"


def json_object(members: Mapping[str, bytes]) -> bytes:
    """An object of values that are JSON already."""
    return b"{" + b",".join(to_json(name) + b":" + value for name, value in members.items()) + b"}"


def preferred(accept: str, offered: Sequence[str]) -> str:
    """The media type that the client likes best, the first of several (RFC 9110, section 12.5.1).

    Raises:
        NotAcceptable: it wants none of them.
    """
    if not accept.strip():
        return offered[0]
    qualities = [_quality(media_type, accept) for media_type in offered]
    if not any(qualities):
        raise NotAcceptable(f"Accept: offered are {', '.join(offered)}")
    return offered[qualities.index(max(qualities))]


def compressed(content: bytes, accept_encoding: str) -> tuple[bytes, str | None]:
    """Return the content and its Content-Encoding: gzip or deflate if the client takes one and it is worth it."""
    accepted = {_coding(item) for item in accept_encoding.split(",")}
    if len(content) >= _WORTH_IT and "gzip" in accepted:
        return gzip.compress(content, _LEVEL, mtime=0), "gzip"
    if len(content) >= _WORTH_IT and "deflate" in accepted:
        return zlib.compress(content, _LEVEL), "deflate"
    return content, None


def _quality(media_type: str, accept: str) -> float:
    """What the most specific range that matches says, 0..1."""
    matches = ("*/*", f"{media_type.partition('/')[0]}/*", media_type)
    found: dict[int, float] = {}
    for part in accept.lower().split(","):
        media_range, *parameters = (word.strip() for word in part.split(";"))
        if media_range in matches:
            found[matches.index(media_range)] = _weight(parameters)
    return found[max(found)] if found else 0.0


def _weight(parameters: Sequence[str]) -> float:
    given = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
    try:
        return min(1.0, max(0.0, float(given)))
    except ValueError:
        return 0.0


def _coding(item: str) -> str | None:
    """The coding that an item of Accept-Encoding names, unless it says `q=0`."""
    coding, _, parameters = item.partition(";")
    refused = parameters.replace(" ", "").lower() in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return None if refused else coding.strip().lower()
