"""The bytes of a request's body, never more of them than the limit in memory; and how an address reads its body.

body --read: Content-Encoding, limits--> bytes or a form --parse--> what the address needs, and parameters
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from starlette.requests import ClientDisconnect, Request

from aaserve.service.errors import BodyTooLarge
from aaserve.service.http.body.compression import coding_of, decompressed
from aaserve.service.http.body.receiving import Receipt
from aaserve.service.http.state import state_of

JOINED_INLINE = 2**20  # bytes; more would stop the event loop for a millisecond
FORM, JSON = "multipart/form-data", "application/json"
Fields = dict[str, str]  # of a form or a JSON object, beside its images
Upload = TypeVar("Upload")
Content = TypeVar("Content", covariant=True)


@dataclass(frozen=True, slots=True)
class Parsed(Generic[Content]):
    """What an address needs of a body.

    Args:
        fields: parameters that the body contains.
        rows: that it asks for.
        timeout: seconds from now to the deadline, if the body shortens it.
    """

    content: Content
    fields: Fields = field(default_factory=dict)
    rows: int = 1
    timeout: float | None = None


class BodyReader(Protocol[Upload, Content]):
    """How an address reads its body."""

    parses_text: bool  # True if `parse` decodes JSON or base64, which takes long for a large body

    async def read(self, receipt: Receipt) -> Upload:
        """Return what the client sent."""

    def parse(self, upload: Upload) -> Parsed[Content]:
        """Return what it means; a large body is parsed in a thread."""


async def read_body(request: Request, receipt: Receipt, *, max_bytes: int | None = None) -> bytes:
    """Return the whole body; raises as `body_pieces`."""
    chunks = [chunk async for chunk in body_pieces(request, receipt, max_bytes=max_bytes)]
    if sum(map(len, chunks)) <= JOINED_INLINE:
        return b"".join(chunks)
    return await asyncio.to_thread(b"".join, chunks)


def body_pieces(request: Request, receipt: Receipt, *, max_bytes: int | None = None) -> AsyncIterator[bytes]:
    """The body as it comes, decompressed: the only way in which any route reads it.

    Args:
        max_bytes: None for `max_body_bytes` of the settings.

    Raises:
        BodyTooLarge: by its Content-Length before anything is read, or as soon as too much has come.
        UnsupportedEncoding: a Content-Encoding that is not known.
        InvalidRequest: not what Content-Encoding says.
    """
    coding = coding_of(_content_encoding(request))
    max_bytes = max_bytes or state_of(request).settings.max_body_bytes
    received = _received(request, max_bytes, receipt, hold=coding is None)
    return received if coding is None else _held(decompressed(received, coding, max_bytes=max_bytes), receipt)


def announced_bytes(request: Request) -> int:
    """How much of a body to expect: what it declares, or as much as is allowed where that is no bound."""
    max_body_bytes = state_of(request).settings.max_body_bytes
    declared = request.headers.get("content-length", "")
    if not declared.isdecimal() or coding_of(_content_encoding(request)):
        return max_body_bytes
    return min(int(declared[:20]), max_body_bytes)


def media_type_of(request: Request) -> str:
    """The Content-Type without its parameters."""
    return _media_type(request.headers.get("content-type", ""))


def has_fields(content_type: str) -> bool:
    """Whether the body may say more than what the image is."""
    return _media_type(content_type) in (FORM, JSON)


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _content_encoding(request: Request) -> str:
    return ",".join(request.headers.getlist("content-encoding"))


async def _held(content: AsyncIterator[bytes], receipt: Receipt) -> AsyncGenerator[bytes, None]:
    async for piece in content:
        receipt.hold(len(piece))
        yield piece


async def _received(request: Request, max_bytes: int, receipt: Receipt, *, hold: bool) -> AsyncGenerator[bytes, None]:
    """The pieces as the client sends them; with `hold`, they stay in memory."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > max_bytes:
        raise _too_large(max_bytes)
    received, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece, more = message["body"], message["more_body"]
        received += len(piece)
        receipt.arrived(len(piece))
        if received > max_bytes:
            raise _too_large(max_bytes)
        if hold:
            receipt.hold(len(piece))
        yield piece


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than {max_bytes} bytes")
