"""Content-Encoding: bodies in, never larger than the limit, and answers out where the client asks for it."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncGenerator, AsyncIterator

from aaserve.service.errors import BodyTooLarge, InvalidRequest, UnsupportedEncoding

ACCEPTED = "gzip, deflate"
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # deflate: in zlib's framing, as HTTP means it
_LEVEL = 1
_WORTH_IT = 1024  # bytes
_PIECE = 262_144  # bytes that are decompressed at once, in the event loop


def coding_of(content_encoding: str) -> str | None:
    """The coding that a header Content-Encoding names, None for no coding.

    Raises:
        UnsupportedEncoding: another one, or several.
    """
    codings = [
        coding for item in content_encoding.split(",") if (coding := item.strip().lower()) not in ("", "identity")
    ]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in _WINDOW_BITS:
        raise UnsupportedEncoding(
            f"Content-Encoding {content_encoding[:40]!r} is not accepted; send {ACCEPTED} or none"
        )
    return codings[0]


async def decompressed(stream: AsyncIterator[bytes], coding: str, *, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Undo a coding, piece by piece.

    Raises:
        InvalidRequest: not what it claims to be, or cut off.
        BodyTooLarge: more than `max_bytes` come out; no more than that is ever made.
    """
    inflater = zlib.decompressobj(_WINDOW_BITS[coding])
    received = size = 0
    async for chunk in stream:
        received += len(chunk)
        piece = b""
        while (chunk and not inflater.eof) or len(piece) == _PIECE:
            try:
                piece = inflater.decompress(chunk, _PIECE)
            except zlib.error as error:
                raise InvalidRequest(f"the body is not {coding} data, as Content-Encoding says") from error
            chunk = inflater.unconsumed_tail
            size += len(piece)
            if size > max_bytes:
                raise BodyTooLarge(f"the decompressed body has more than {max_bytes} bytes")
            yield piece
            await asyncio.sleep(0)  # other requests have their turn
        if chunk or inflater.unused_data:
            raise InvalidRequest(f"something follows the {coding} data")
    if received and not inflater.eof:
        raise InvalidRequest(f"the {coding} data are cut off")


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
