"""The images in a request, whichever way they were sent, never more of it than the limit in memory.

body --Content-Encoding--> raw | multipart | JSON --> images, and the text of the other fields that the route takes
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable
from typing import Any

from starlette.requests import ClientDisconnect, Request

from aaserve.service.errors import (
    BodyTooLarge,
    InvalidParameter,
    InvalidRequest,
    ServiceError,
    TooManyRows,
    UnsupportedMediaType,
)
from aaserve.service.http.body.compression import coding_of, decompressed
from aaserve.service.http.body.encoded_text import from_base64
from aaserve.service.http.body.json_body import GZIP, kind_of, parse_json
from aaserve.service.http.body.long_values import LONG, LongText
from aaserve.service.http.body.multipart import Form, Image, read_form
from aaserve.service.http.body.receiving import Receipt
from aaserve.service.http.parameter_names import resembling

FIELD = "image"
LIST_FIELD = "images"
JOINED_INLINE = 2**20  # bytes; more would stop the event loop for a millisecond
FORM, JSON = "multipart/form-data", "application/json"
_CURL = "; with curl: -F image=@FILE, or -H 'Content-Type: image/jpeg' --data-binary @FILE"

Fields = dict[str, str]  # of a form or a JSON object, beside its images


async def read_body(request: Request, *, max_body_bytes: int) -> bytes:
    """Return the whole body, decompressed.

    Raises:
        BodyTooLarge: by its Content-Length before anything is read, or as soon as too much has come.
        UnsupportedEncoding: a Content-Encoding that is not known.
        InvalidRequest: not what Content-Encoding says.
    """
    chunks = [chunk async for chunk in _body(request, max_body_bytes)]
    if sum(map(len, chunks)) <= JOINED_INLINE:
        return b"".join(chunks)
    return await asyncio.to_thread(b"".join, chunks)


async def read_upload(
    request: Request, takes: Collection[str], *, max_body_bytes: int, field: str = FIELD, max_images: int | None = None
) -> bytes | Form:
    """Return the form that a request contains, or any other body as it is; raises as `read_body`, and as `read_form`.

    Args:
        takes: names of the fields that a form may have beside `field`.
        field: name of the parts that are images.
        max_images: None for exactly one image.
    """
    if media_type_of(request) != FORM:
        return await read_body(request, max_body_bytes=max_body_bytes)
    stream, content_type = _body(request, max_body_bytes), request.headers["content-type"]
    if max_images is not None:
        return await read_form(content_type, stream, image=field, takes=takes, max_images=max_images)
    try:
        return await read_form(content_type, stream, image=field, takes=takes, max_images=1)
    except TooManyRows as error:
        raise InvalidRequest(f"expected one multipart field {field!r}, found several") from error


def check_image_type(media_type: str) -> None:
    """Raise UnsupportedMediaType unless a body of this type can contain an image; "" is a request that names none."""
    if media_type not in (FORM, JSON) and not is_raw(media_type):
        raise _unsupported(media_type, f"image/*, application/octet-stream, {FORM} or {JSON}")


def check_images_type(media_type: str) -> None:
    """Raise UnsupportedMediaType unless a body of this type can contain several images."""
    if media_type not in (FORM, JSON):
        raise _unsupported(media_type, f"{FORM} or {JSON}; POST /classify takes an image as the body")


def image_of(
    upload: bytes | Form, media_type: str, takes: Collection[str], *, field: str = FIELD
) -> tuple[bytes, Fields]:
    """The encoded image of a form, of JSON `{"image": base64 or data URI}` or of a raw body; and the other fields.

    Args:
        takes: names that the other fields may have.

    Raises:
        InvalidRequest: malformed, no image, or more than one.
        InvalidParameter: a field of another name.
        UnsupportedMediaType: the body is not what the request's headers say.
    """
    if isinstance(upload, Form):
        _check_form(upload, field)
        image = _raised(_image_of(upload.images[0], field))
        _refuse_unknown(upload.unknown, field, takes)
        return image, upload.fields
    if media_type != JSON:
        return raw_image(upload), {}
    content = _json_object(upload, field, max_items=1)
    text = content[field]
    if not isinstance(text, str | LongText):
        raise InvalidRequest(f'expected "{field}" to be base64 or a data URI, found {kind_of(text)}')
    return _raised(from_base64(text)), _json_fields(content, field, takes)


def images_of(
    upload: bytes | Form, takes: Collection[str], *, max_items: int
) -> tuple[list[bytes | ServiceError], Fields]:
    """The images of a form or of JSON `{"images": [base64 or data URI, …]}`, in their order; and the other fields.

    A part that is text or an item that is not base64 becomes an InvalidRequest in its place.

    Raises:
        TooManyRows: more than `max_items`.
        InvalidRequest, InvalidParameter: as `image_of`.
    """
    if isinstance(upload, Form):
        _check_form(upload, FIELD)
        _refuse_unknown(upload.unknown, FIELD, takes)
        return [_image_of(image, FIELD) for image in upload.images], upload.fields
    content = _json_object(upload, LIST_FIELD, max_items=max_items)
    texts = content[LIST_FIELD]
    if not isinstance(texts, list):
        raise InvalidRequest(f'expected "{LIST_FIELD}" to be an array of base64 or data URIs, found {kind_of(texts)}')
    if not texts:
        raise InvalidRequest("expected at least one image, found none")
    if len(texts) > max_items:
        raise too_many_images(max_items)
    return [from_base64(text) for text in texts], _json_fields(content, LIST_FIELD, takes)


def raw_image(body: bytes, *, json_goes: str = "send Content-Type: application/json") -> bytes:
    """The body, unless its first bytes say that it is no image and was sent with the wrong headers.

    Raises:
        UnsupportedMediaType: JSON, a multipart form, or gzip data.
    """
    start = body[:64].lstrip()[:2]
    if start[:1] in (b"{", b"["):
        raise UnsupportedMediaType(f"expected an image, found JSON; {json_goes}")
    if start == b"--":
        raise UnsupportedMediaType(f"expected an image, found a multipart form; send Content-Type: {FORM}; boundary=…")
    if start == GZIP:
        raise UnsupportedMediaType("expected an image, found gzip data; send Content-Encoding: gzip")
    return body


def too_many_images(max_items: int) -> TooManyRows:
    return TooManyRows(f"more than {max_items} images in one request")


def body_bytes(request: Request, *, max_body_bytes: int) -> int:
    """How much of a body to expect: what it declares, or as much as is allowed where that is no bound."""
    declared = request.headers.get("content-length", "")
    if not declared.isdecimal() or coding_of(_content_encoding(request)):
        return max_body_bytes
    return min(int(declared[:20]), max_body_bytes)


def has_fields(request: Request) -> bool:
    """Whether the body may say more than what the image is."""
    return media_type_of(request) in (FORM, JSON)


def is_raw(media_type: str) -> bool:
    """Whether the body is the picture itself."""
    return media_type in ("", "application/octet-stream") or media_type.startswith("image/")


def media_type_of(request: Request) -> str:
    """The Content-Type without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _content_encoding(request: Request) -> str:
    return ",".join(request.headers.getlist("content-encoding"))


def _body(request: Request, max_body_bytes: int) -> AsyncIterator[bytes]:
    """The body as it comes, decompressed: the only way in which any route reads it."""
    coding = coding_of(_content_encoding(request))
    received = _limited(request, max_body_bytes)
    content = received if coding is None else decompressed(received, coding, max_bytes=max_body_bytes)
    return _held(request, content)


async def _held(request: Request, content: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    receipt: Receipt = request.state.receipt
    async for piece in content:
        receipt.hold(len(piece))
        yield piece


async def _limited(request: Request, max_body_bytes: int) -> AsyncGenerator[bytes, None]:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > max_body_bytes:
        raise _body_too_large(max_body_bytes)
    receipt: Receipt = request.state.receipt
    received, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message["more_body"]
        received += len(message["body"])
        receipt.arrived(len(message["body"]))
        if received > max_body_bytes:
            raise _body_too_large(max_body_bytes)
        yield message["body"]


def _check_form(form: Form, field: str) -> None:
    """Raise InvalidRequest unless the form has an image."""
    if not form.images:
        found = _named([*form.fields, *form.unknown])
        raise InvalidRequest(f"expected a multipart field {field!r}, found {found}")


def _image_of(image: Image, field: str) -> bytes | ServiceError:
    """The content of a part; one without a filename may be an image all the same, but not if it is text."""
    content = bytes(image.content)
    if not image.has_filename and _is_text(content):
        return InvalidRequest(f"the multipart field {field!r} is text; send it as a file (curl -F {field}=@FILE)")
    return content


def _is_text(content: bytes) -> bool:
    """Whether it is UTF-8 without a zero byte, which no image is."""
    try:
        return b"\0" not in content and bool(content.decode())
    except UnicodeDecodeError:
        return False


def _json_object(body: bytes, name: str, *, max_items: int) -> dict[str, Any]:
    """A JSON object that has `name`."""
    expected = f'a JSON object with "{name}"'
    content = parse_json(body, expected=expected, image_hint="send Content-Type: image/*", max_items=max_items)
    if not isinstance(content, dict):
        raise InvalidRequest(f"expected {expected}, found {kind_of(content)}")
    if name not in content:
        raise InvalidRequest(f"expected {expected}, found {_named(content)}")
    return content


def _json_fields(content: dict[str, Any], image: str, takes: Collection[str]) -> Fields:
    """The fields beside the image as text; null is as good as absent."""
    given = {name: value for name, value in content.items() if name != image and value is not None}
    _refuse_unknown(given, image, takes)
    for name, value in given.items():
        if isinstance(value, LongText):
            raise InvalidParameter(f"{name} must have at most {LONG} bytes")
        if type(value) not in (str, int):
            raise InvalidParameter(f"{name} must be a string or a whole number, found {kind_of(value)}")
    return {name: str(value) for name, value in given.items()}


def _refuse_unknown(names: Iterable[str], image: str, takes: Collection[str]) -> None:
    known = (image, *takes)
    for name in names:
        if name not in known:
            meant = resembling(name, known)
            hint = f"did you mean {meant!r}?" if meant else f"known here: {', '.join(known)}"
            raise InvalidParameter(f"unknown field {name[:40]!r}; {hint}")


def _named(names: Iterable[str]) -> str:
    """Some of the names, for a message."""
    found = [repr(name[:40]) for name in names]
    return ", ".join(found[:5]) + (", …" if len(found) > 5 else "") if found else "none"


def _unsupported(media_type: str, accepted: str) -> UnsupportedMediaType:
    found = f"Content-Type {media_type[:40]!r}" if media_type else "no Content-Type"
    curl = _CURL if media_type == "application/x-www-form-urlencoded" else ""
    return UnsupportedMediaType(f"found {found}; send {accepted}{curl}")


def _raised(image: bytes | ServiceError) -> bytes:
    if isinstance(image, ServiceError):
        raise image
    return image


def _body_too_large(max_body_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than {max_body_bytes} bytes")
