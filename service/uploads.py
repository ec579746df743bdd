"""The picture in a request, whichever way it was sent, never more of it than the limit in memory."""

import base64
import binascii
import json
from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from service.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType

FIELD = "image"
_MAX_FILES = 16  # enough to tell that there is more than one; the parser stops there
_MAX_FIELDS = 16
_MAX_FIELD_BYTES = 2**16


class _InMemoryParser(MultiPartParser):
    spool_max_size = 2**62  # the body is bounded already, and the root file system may be read-only


async def read_image(request: Request, *, max_body_bytes: int) -> bytes:
    """Return the encoded image of a raw body, a multipart field `image` or JSON `{"image": base64 or data URI}`.

    Raises:
        BodyTooLarge: by its Content-Length before anything is read, or as soon as what came is too much.
        UnsupportedMediaType: a Content-Type that is none of the three.
        InvalidRequest: malformed, no image, or more than one.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    stream = _limited(request, max_body_bytes)
    if media_type == "multipart/form-data":
        return await _from_form(request, stream)
    if media_type == "application/json":
        return _from_json(b"".join([chunk async for chunk in stream]))
    if media_type in ("", "application/octet-stream") or media_type.startswith("image/"):
        return b"".join([chunk async for chunk in stream])
    raise UnsupportedMediaType(
        "send Content-Type image/*, application/octet-stream, multipart/form-data or application/json"
    )


async def _limited(request: Request, max_body_bytes: int) -> AsyncGenerator[bytes, None]:
    too_large = BodyTooLarge(f"the body has more than {max_body_bytes} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > max_body_bytes:
        raise too_large
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > max_body_bytes:
            raise too_large
        yield chunk


async def _from_form(request: Request, stream: AsyncGenerator[bytes, None]) -> bytes:
    parser = _InMemoryParser(
        request.headers, stream, max_files=_MAX_FILES, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidRequest("the multipart body is malformed or has too many parts") from error
    try:
        parts = form.getlist(FIELD)
        if len(parts) != 1:
            raise InvalidRequest(f"expected one multipart field {FIELD!r}, found {len(parts)}")
        if not isinstance(parts[0], UploadFile):
            raise InvalidRequest(f"the multipart field {FIELD!r} is text; send it as a file (curl -F {FIELD}=@FILE)")
        return await parts[0].read()
    finally:
        await form.close()


def _from_json(body: bytes) -> bytes:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("the body is not JSON") from error
    text = content.get(FIELD) if isinstance(content, dict) else None
    if not isinstance(text, str):
        raise InvalidRequest(f'expected {{"{FIELD}": "<base64 or data URI>"}}')
    if text.startswith("data:"):
        header, _, text = text.partition(",")
        if not header.endswith(";base64"):
            raise InvalidRequest("the data URI is not base64")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{FIELD!r} is not valid base64") from error
