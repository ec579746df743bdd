"""Content-Encoding of a body: undone as it comes, and never into more than the limit."""

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterator

from aaserve.service.errors import BodyTooLarge, InvalidRequest, UnsupportedEncoding

ACCEPTED = "gzip, deflate"
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # deflate: in zlib's framing, as HTTP means it
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
