"""How answers are written: headers; JSON in pieces, in the media type and content coding that the client accepts.

An encoder holds the interpreter lock from the first byte to the last, so large answers are encoded piece by piece.
"""

import gzip
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from aaserve.service.errors import NotAcceptable
from aaserve.service.threads import hand_over

PIECE = 2048  # values that are encoded at once; as objects they take half a millisecond
_LEVEL = 1
_WORTH_IT = 1024  # bytes; shorter answers are not compressed


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as they are sent."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def json_array(items: Sequence[Any] | NDArray[Any]) -> bytes:
    """An array of numbers, texts or objects."""
    pieces: list[bytes] = [b"["]
    for start in range(0, len(items), PIECE):
        if start:
            hand_over()
            pieces.append(b",")
        piece = items[start : start + PIECE]
        pieces.append(to_json(piece.tolist() if isinstance(piece, np.ndarray) else piece)[1:-1])
    return b"".join([*pieces, b"]"])  # `join` gives the lock away for a large copy, `+` does not


def json_object(members: Mapping[str, bytes]) -> bytes:
    """An object of values that are JSON already."""
    pieces = [piece for name, value in members.items() for piece in (b",", to_json(name), b":", value)]
    return b"".join([b"{", *pieces[1:], b"}"])


def preferred(accept: str, offered: Sequence[str]) -> str:
    """The media type that the client likes best, the first of several (RFC 9110, section 12.5.1).

    Raises:
        NotAcceptable: it wants none of them.
    """
    if not accept.strip():
        return offered[0]
    weights = _weights(accept)
    liked = {name: next((weights[each] for each in _ranges(name) if each in weights), 0.0) for name in offered}
    if not any(liked.values()):
        raise NotAcceptable(f"Accept: offered are {', '.join(offered)}")
    return max(offered, key=lambda name: liked[name])


def compressed(content: bytes, accept_encoding: str) -> tuple[bytes, str | None]:
    """Return the content and its Content-Encoding: gzip or deflate if the client takes one and it is worth it."""
    weights = _weights(accept_encoding) if len(content) >= _WORTH_IT else {}
    if weights.get("gzip"):
        return gzip.compress(content, _LEVEL, mtime=0), "gzip"
    if weights.get("deflate"):
        return zlib.compress(content, _LEVEL), "deflate"
    return content, None


def _ranges(media_type: str) -> tuple[str, str, str]:
    """What a client may write for a media type, the most specific first."""
    return media_type, f"{media_type.partition('/')[0]}/*", "*/*"


def _weights(header: str) -> dict[str, float]:
    """What a header like Accept names, and how much the client likes each, 0..1 (RFC 9110, section 12.4.2)."""
    weights = {}
    for item in "".join(header.lower().split()).split(","):
        name, *parameters = item.split(";")
        given = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
        try:
            weights[name] = min(1.0, max(0.0, float(given)))
        except ValueError:
            weights[name] = 0.0
    return weights
