"""Content-Encoding: bodies in, never larger than the limit, and answers out where the client asks for it."""

import gzip
import zlib

from service.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType

_WINDOW_BITS = {"gzip": 31, "deflate": 15}  # deflate: in zlib's framing, as HTTP means it
_LEVEL = 1
_WORTH_IT = 1024  # bytes


def decompressed(body: bytes, encoding: str, *, max_bytes: int) -> bytes:
    """Undo the Content-Encoding `encoding` ("" for none).

    Raises:
        UnsupportedMediaType: neither gzip nor deflate.
        InvalidRequest: not what it claims to be, or cut off.
        BodyTooLarge: more than `max_bytes` come out; no more than that is ever held.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in _WINDOW_BITS:
        raise UnsupportedMediaType("send Content-Encoding gzip, deflate or none")
    inflater = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        content = inflater.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise InvalidRequest(f"the body is not {encoding} data") from error
    if len(content) > max_bytes:
        raise BodyTooLarge(f"the decompressed body has more than {max_bytes} bytes")
    if not inflater.eof or inflater.unused_data:
        raise InvalidRequest(f"the {encoding} data are cut off, or something follows them")
    return content


def compressed(content: bytes, accept_encoding: str) -> tuple[bytes, str | None]:
    """Return the content and its Content-Encoding: gzip or deflate if the client takes one and it is worth it."""
    accepted = {_coding(item) for item in accept_encoding.split(",")}
    if len(content) >= _WORTH_IT and "gzip" in accepted:
        return gzip.compress(content, _LEVEL, mtime=0), "gzip"
    if len(content) >= _WORTH_IT and "deflate" in accepted:
        return zlib.compress(content, _LEVEL), "deflate"
    return content, None


def _coding(item: str) -> str | None:
    """The coding that an item of Accept-Encoding names, unless it says `q=0`."""
    coding, _, parameters = item.partition(";")
    refused = parameters.replace(" ", "").lower() in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return None if refused else coding.strip().lower()
