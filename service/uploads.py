"""The pictures in a request, whichever way they were sent, never more of it than the limit in memory."""

import base64
import binascii
import json
from collections.abc import AsyncGenerator
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from service.errors import BodyTooLarge, InvalidRequest, ServiceError, TooManyRows, UnsupportedMediaType

FIELD = "image"
LIST_FIELD = "images"
_MAX_FILES = 16  # enough to tell that there is more than one; the parser stops there
_MAX_FIELDS = 16
_MAX_FIELD_BYTES = 2**16
_MAX_JSON_VALUES = 100_000  # ten megabytes of small ones would stop the event loop for half a second; base64 has none


class _InMemoryParser(MultiPartParser):
    spool_max_size = 2**62  # the body is bounded already, and the root file system may be read-only


async def read_body(request: Request, *, max_body_bytes: int) -> bytes:
    """Return the whole body.

    Raises:
        BodyTooLarge: as `read_image`.
    """
    return b"".join([chunk async for chunk in _limited(request, max_body_bytes)])


async def read_image(request: Request, *, max_body_bytes: int) -> bytes:
    """Return the encoded image of a raw body, a multipart field `image` or JSON `{"image": base64 or data URI}`.

    Raises:
        BodyTooLarge: by its Content-Length before anything is read, or as soon as what came is too much.
        UnsupportedMediaType: a Content-Type that is none of the three.
        InvalidRequest: malformed, no image, or more than one.
    """
    media_type = media_type_of(request)
    if media_type == "multipart/form-data":
        return await read_form_image(request, max_body_bytes=max_body_bytes)
    if media_type == "application/json":
        text = _json_value(await read_body(request, max_body_bytes=max_body_bytes), FIELD)
        if not isinstance(text, str):
            raise InvalidRequest(f'expected {{"{FIELD}": "<base64 or data URI>"}}')
        return _raised(from_base64(text))
    if is_raw(media_type):
        return await read_body(request, max_body_bytes=max_body_bytes)
    raise UnsupportedMediaType(
        "send Content-Type image/*, application/octet-stream, multipart/form-data or application/json"
    )


async def read_form_image(request: Request, *, max_body_bytes: int, field: str = FIELD) -> bytes:
    """Return the encoded image of the one multipart part `field`; raises as `read_image`."""
    try:
        parts = await _form_parts(request, _limited(request, max_body_bytes), max_files=_MAX_FILES, field=field)
    except TooManyRows as error:
        raise InvalidRequest(f"expected one multipart field {field!r}, found many") from error
    if len(parts) != 1:
        raise InvalidRequest(f"expected one multipart field {field!r}, found {len(parts)}")
    return _raised(parts[0])


async def read_images(request: Request, *, max_body_bytes: int, max_items: int) -> list[bytes | ServiceError]:
    """Return the images of multipart parts `image` or of JSON `{"images": [base64 or data URI, …]}`, in their order.

    A part that is no image file or not base64 becomes an InvalidRequest in its place.

    Raises:
        BodyTooLarge: as `read_image`; the whole body counts.
        UnsupportedMediaType: a Content-Type that is neither.
        InvalidRequest: malformed, or no image at all.
        TooManyRows: more than `max_items`.
    """
    media_type = media_type_of(request)
    stream = _limited(request, max_body_bytes)
    images: list[bytes | ServiceError]
    if media_type == "multipart/form-data":
        images = await _form_parts(request, stream, max_files=max_items)
    elif media_type == "application/json":
        texts = _json_value(b"".join([chunk async for chunk in stream]), LIST_FIELD)
        if not isinstance(texts, list):
            raise InvalidRequest(f'expected {{"{LIST_FIELD}": ["<base64 or data URI>", …]}}')
        images = [from_base64(text) for text in texts[: max_items + 1]]
    else:
        raise UnsupportedMediaType("send Content-Type multipart/form-data or application/json")
    if not images:
        raise InvalidRequest("expected at least one image, found none")
    if len(images) > max_items:
        raise _too_many(max_items)
    return images


def body_bytes(request: Request, *, max_body_bytes: int) -> int:
    """How much of a body to expect: what it declares, or as much as is allowed."""
    declared = request.headers.get("content-length", "")
    return min(int(declared[:20]), max_body_bytes) if declared.isdecimal() else max_body_bytes


def is_raw(media_type: str) -> bool:
    """Whether the body is the picture itself."""
    return media_type in ("", "application/octet-stream") or media_type.startswith("image/")


def media_type_of(request: Request) -> str:
    """The Content-Type without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _limited(request: Request, max_body_bytes: int) -> AsyncGenerator[bytes, None]:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > max_body_bytes:
        raise _body_too_large(max_body_bytes)
    received, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message["more_body"]
        received += len(message["body"])
        if received > max_body_bytes:
            raise _body_too_large(max_body_bytes)
        yield message["body"]


async def _form_parts(
    request: Request, stream: AsyncGenerator[bytes, None], *, max_files: int, field: str = FIELD
) -> list[bytes | ServiceError]:
    parser = _InMemoryParser(
        request.headers,
        stream,
        max_files=max_files,
        max_fields=max(max_files, _MAX_FIELDS),
        max_part_size=_MAX_FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise _too_many(max_files) from error
        raise InvalidRequest("the multipart body is malformed or has too many fields") from error
    try:
        return await _contents(form, field)
    finally:
        await form.close()


async def _contents(form: FormData, field: str) -> list[bytes | ServiceError]:
    text = InvalidRequest(f"the multipart field {field!r} is text; send it as a file (curl -F {field}=@FILE)")
    return [await part.read() if isinstance(part, UploadFile) else text for part in form.getlist(field)]


def _json_value(body: bytes, name: str) -> Any:
    if sum(map(body.count, (b",", b"[", b"{"))) > _MAX_JSON_VALUES:
        raise InvalidRequest(f"the JSON has more than {_MAX_JSON_VALUES} values")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("the body is not JSON") from error
    return content.get(name) if isinstance(content, dict) else None


def from_base64(text: object) -> bytes | ServiceError:
    """The bytes that base64 or a data URI stand for, or what is wrong with it."""
    if not isinstance(text, str):
        return InvalidRequest("expected base64 or a data URI, as a string")
    if text.startswith("data:"):
        header, _, text = text.partition(",")
        if not header.endswith(";base64"):
            return InvalidRequest("the data URI is not base64")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return InvalidRequest("not valid base64")


def _raised(image: bytes | ServiceError) -> bytes:
    if isinstance(image, ServiceError):
        raise image
    return image


def _body_too_large(max_body_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than {max_body_bytes} bytes")


def _too_many(max_items: int) -> TooManyRows:
    return TooManyRows(f"more than {max_items} images in one request")
