"""An image as text --> its bytes: base64 in either alphabet, padded or not, or a data URI (RFC 4648, RFC 2397).

text --pieces--> escapes undone, blanks out --> bytes
"""

import binascii
import json
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from aaserve.service.errors import InvalidRequest, ServiceError
from aaserve.service.http.body.json_body import kind_of
from aaserve.service.http.body.long_values import PIECE, LongText
from aaserve.service.threads import hand_over

_FOREIGN = re.compile(rb"[^A-Za-z0-9+/]")
_STANDARD = bytes.maketrans(b"-_", b"+/")
_BLANKS = b" \t\r\n\v\f"
_LONGEST_ESCAPE = 6  # bytes of \u002B
_ADDRESSES = (b"http://", b"https://")


def from_base64(text: object) -> bytes | ServiceError:
    """The bytes that base64 or a data URI stand for, or what is wrong with it."""
    try:
        if isinstance(text, LongText):
            return _decoded(_pieces(text.content), escaped=True)
        if isinstance(text, str):
            return _decoded(iter([text.encode(errors="surrogatepass")]), escaped=False)
    except InvalidRequest as error:
        return error.without_origin()
    return InvalidRequest(f"expected base64 or a data URI as a string, found {kind_of(text)}")


def raised(image: bytes | ServiceError) -> bytes:
    """The bytes, unless they are an error."""
    if isinstance(image, ServiceError):
        raise image
    return image


def _pieces(content: memoryview) -> Iterator[bytes]:
    """The content in pieces that divide no escape."""
    start = 0
    while start < len(content):
        piece = bytes(content[start : start + PIECE])
        if start + PIECE < len(content):
            last = max(piece.rfind(b"\\", -_LONGEST_ESCAPE), piece.rfind(b"%", -_LONGEST_ESCAPE))
            if last > 0:
                piece = piece[:last]
        yield piece
        start += len(piece)
        if start < len(content):
            hand_over()


def _decoded(pieces: Iterator[bytes], *, escaped: bool) -> bytes:
    """Decode pieces; raises InvalidRequest.

    Args:
        escaped: True if the pieces have the escapes of JSON.
    """
    decoded: list[bytes] = []
    rest = b""  # digits that are no four yet
    is_first, is_uri, is_padded = True, False, False
    for piece in pieces:
        if escaped and b"\\" in piece:
            piece = _unescaped(piece)
        if is_first:
            piece, is_uri = _without_header(piece.lstrip(_BLANKS))
            is_first = False
        if is_uri and b"%" in piece:
            piece = unquote_to_bytes(piece)
        digits = piece.translate(_STANDARD, _BLANKS)
        unpadded = digits.rstrip(b"=")
        if is_padded and unpadded:
            raise InvalidRequest("not valid base64: found '='")
        is_padded = is_padded or len(unpadded) < len(digits)
        digits = rest + unpadded
        whole = len(digits) // 4 * 4
        decoded.append(_bytes_of(digits[:whole]))
        rest = digits[whole:]
    decoded.append(_bytes_of(rest + b"=" * (-len(rest) % 4)))
    return b"".join(decoded)


def _without_header(piece: bytes) -> tuple[bytes, bool]:
    """The first piece without the header of a data URI, and whether there is one."""
    start = piece[:16].translate(None, _BLANKS).lower()
    if start.startswith(_ADDRESSES):
        raise InvalidRequest("expected base64 or a data URI, found an address; nothing is fetched from elsewhere")
    if not start.startswith(b"data:"):
        return piece, False
    header, comma, data = piece.partition(b",")
    if not comma:
        raise InvalidRequest("the data URI has no comma before its data")
    if not header.translate(None, _BLANKS).lower().endswith(b";base64"):
        raise InvalidRequest("the data URI is not base64: expected ;base64 before its comma")
    return data, True


def _unescaped(piece: bytes) -> bytes:
    """A piece of a JSON string without its escapes: some writers escape / or +, or the ends of lines."""
    try:
        text: str = json.loads(b'"' + piece + b'"', strict=False)
    except ValueError:
        raise InvalidRequest("not valid base64: found a malformed escape") from None
    return text.encode(errors="surrogatepass")


def _bytes_of(digits: bytes) -> bytes:
    try:
        return binascii.a2b_base64(digits, strict_mode=True)
    except binascii.Error:
        foreign = _FOREIGN.search(digits.rstrip(b"="))
        if foreign is None:
            raise InvalidRequest("not valid base64: it is cut off") from None
        found = digits[foreign.start() : foreign.start() + 4].decode(errors="replace")[0]
        raise InvalidRequest(f"not valid base64: found {found!r}") from None
