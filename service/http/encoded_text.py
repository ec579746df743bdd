"""An image as text --> its bytes: base64 in either alphabet, padded or not, or a data URI (RFC 4648, RFC 2397)."""

import base64
import binascii
import re
from urllib.parse import unquote

from aaserve.service.errors import InvalidRequest, ServiceError
from aaserve.service.http.json_body import kind_of

_FOREIGN = re.compile(rb"[^A-Za-z0-9+/]")
_STANDARD = bytes.maketrans(b"-_", b"+/")


def from_base64(text: object) -> bytes | ServiceError:
    """The bytes that base64 or a data URI stand for, or what is wrong with it."""
    if not isinstance(text, str):
        return InvalidRequest(f"expected base64 or a data URI as a string, found {kind_of(text)}")
    text = "".join(text.split())
    if text[:5].lower() == "data:":
        header, comma, text = text.partition(",")
        if not comma:
            return InvalidRequest("the data URI has no comma before its data")
        if not header.lower().endswith(";base64"):
            return InvalidRequest("the data URI is not base64: expected ;base64 before its comma")
        text = unquote(text)
    elif text[:8].lower().startswith(("http://", "https://")):
        return InvalidRequest("expected base64 or a data URI, found an address; nothing is fetched from elsewhere")
    try:
        digits = text.rstrip("=").encode("ascii").translate(_STANDARD)
    except UnicodeEncodeError as error:
        return InvalidRequest(f"not valid base64: found {text[error.start]!r}")
    try:
        return base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except binascii.Error:
        foreign = _FOREIGN.search(digits)
        return InvalidRequest(f"not valid base64: {f'found {foreign[0].decode()!r}' if foreign else 'it is cut off'}")
