"""The images in a request, for all ways to send them, and the text of the other fields that the address takes.

raw | multipart | JSON with base64 or data URIs --> images
"""

from collections.abc import Collection, Iterable
from typing import Any

from starlette.requests import Request

from aaserve.service.errors import (
    InvalidParameter,
    InvalidRequest,
    ServiceError,
    TooManyRows,
    UnsupportedMediaType,
)
from aaserve.service.http.body.body import FORM, JSON, Fields, Parsed, body_pieces, media_type_of, read_body
from aaserve.service.http.body.encoded_text import from_base64, raised
from aaserve.service.http.body.json_body import GZIP, kind_of, parse_json
from aaserve.service.http.body.long_values import LONG, LongText
from aaserve.service.http.body.multipart import Form, Image, read_form
from aaserve.service.http.body.receiving import Receipt
from aaserve.service.http.params import FRACTIONS, resembling
from aaserve.service.http.state import state_of

_CURL = "; with curl: -F image=@FILE, or -H 'Content-Type: image/jpeg' --data-binary @FILE"
_LIST_FIELD = "images"  # of JSON


class _Upload:
    """A body with images.

    Args:
        takes: names that the other fields of a form or of JSON may have.

    Raises:
        UnsupportedMediaType: the body can contain no image.
    """

    field = "image"  # of a form

    def __init__(self, request: Request, takes: Collection[str]) -> None:
        self._request = request
        self._takes = takes
        self._media_type = media_type_of(request)
        self.parses_text = self._media_type == JSON
        self.check(self._media_type)

    def check(self, media_type: str) -> None:
        """Raise UnsupportedMediaType unless a body of this type can contain what is wanted; "" is none."""

    async def _read(self, receipt: Receipt, *, max_images: int) -> bytes | Form:
        """The form, or any other body as it is; raises as `read_body`, and as `read_form`."""
        if self._media_type != FORM:
            return await read_body(self._request, receipt)
        pieces, content_type = body_pieces(self._request, receipt), self._request.headers["content-type"]
        return await read_form(content_type, pieces, image=self.field, takes=self._takes, max_images=max_images)

    def _images(self, form: Form) -> list[bytes | ServiceError]:
        """The contents of its images, at least one; instead of one that is text, an InvalidRequest."""
        if not form.images:
            found = _named([*form.fields, *form.unknown])
            raise InvalidRequest(f"expected a multipart field {self.field!r}, found {found}")
        return [_image_of(image, self.field) for image in form.images]

    def _from_json(self, body: bytes, name: str, *, max_items: int) -> tuple[Any, dict[str, Any]]:
        """The value of `name` in a JSON object, and its other members."""
        expected = f'a JSON object with "{name}"'
        content = parse_json(body, expected=expected, image_hint="send Content-Type: image/*", max_items=max_items)
        if not isinstance(content, dict):
            raise InvalidRequest(f"expected {expected}, found {kind_of(content)}")
        if name not in content:
            raise InvalidRequest(f"expected {expected}, found {_named(content)}")
        return content.pop(name), content

    def _fields(self, members: dict[str, Any], image: str) -> Fields:
        """Members of a JSON object as text; null is as good as absent."""
        given = {name: value for name, value in members.items() if value is not None}
        self._refuse_unknown(given, image)
        for name, value in given.items():
            if isinstance(value, LongText):
                raise InvalidParameter(f"{name} must have at most {LONG} bytes")
            if type(value) not in (str, int) and not (type(value) is float and name in FRACTIONS):
                kinds = "a number" if name in FRACTIONS else "a string or a whole number"
                raise InvalidParameter(f"{name} must be {kinds}, found {kind_of(value)}")
        return {name: str(value) for name, value in given.items()}

    def _refuse_unknown(self, names: Iterable[str], image: str) -> None:
        known = (image, *self._takes)
        for name in names:
            if name not in known:
                meant = resembling(name, known)
                hint = f"did you mean {meant!r}?" if meant else f"known here: {', '.join(known)}"
                raise InvalidParameter(f"unknown field {name[:40]!r}; {hint}")


class ImageUpload(_Upload):
    """One image: the body itself, in a form, or in JSON `{"image": base64 or data URI}`."""

    def check(self, media_type: str) -> None:
        raw = media_type in ("", "application/octet-stream") or media_type.startswith("image/")
        if not raw and media_type not in (FORM, JSON):
            raise _unsupported(media_type, f"image/*, application/octet-stream, {FORM} or {JSON}")

    async def read(self, receipt: Receipt) -> bytes | Form:
        try:
            return await self._read(receipt, max_images=1)
        except TooManyRows as error:
            raise InvalidRequest(f"expected one multipart field {self.field!r}, found several") from error

    def parse(self, upload: bytes | Form) -> Parsed[bytes]:
        """Return the encoded image.

        Raises:
            InvalidRequest: malformed, no image, or more than one.
            InvalidParameter: a field of another name.
            UnsupportedMediaType: the body is not what the request's headers say.
        """
        if isinstance(upload, Form):
            return self.of_form(upload)
        if self._media_type != JSON:
            return Parsed(raw_image(upload))
        text, members = self._from_json(upload, self.field, max_items=1)
        if not isinstance(text, str | LongText):
            raise InvalidRequest(f'expected "{self.field}" to be base64 or a data URI, found {kind_of(text)}')
        return Parsed(raised(from_base64(text)), self._fields(members, self.field))

    def of_form(self, form: Form) -> Parsed[bytes]:
        image = raised(self._images(form)[0])
        self._refuse_unknown(form.unknown, self.field)
        return Parsed(image, form.fields)


class ImagesUpload(_Upload):
    """Several images: in a form, or in JSON `{"images": [base64 or data URI, …]}`; at most `max_batch_items`."""

    def __init__(self, request: Request, takes: Collection[str]) -> None:
        super().__init__(request, takes)
        self._max_items = state_of(request).settings.max_batch_items

    def check(self, media_type: str) -> None:
        if media_type not in (FORM, JSON):
            raise _unsupported(media_type, f"{FORM} or {JSON}; the address without /batch takes an image as the body")

    async def read(self, receipt: Receipt) -> bytes | Form:
        return await self._read(receipt, max_images=self._max_items)

    def parse(self, upload: bytes | Form) -> Parsed[list[bytes | ServiceError]]:
        """Return the encoded images in their order; what is text or no base64 is an InvalidRequest in its place.

        Raises:
            TooManyRows: more than `max_batch_items`.
            InvalidRequest, InvalidParameter: as `ImageUpload.parse`.
        """
        if isinstance(upload, Form):
            images = self._images(upload)
            self._refuse_unknown(upload.unknown, self.field)
            return Parsed(images, upload.fields, len(images))
        texts, members = self._from_json(upload, _LIST_FIELD, max_items=self._max_items)
        if not isinstance(texts, list):
            kind = kind_of(texts)
            raise InvalidRequest(f'expected "{_LIST_FIELD}" to be an array of base64 or data URIs, found {kind}')
        if not texts:
            raise InvalidRequest("expected at least one image, found none")
        if len(texts) > self._max_items:
            raise TooManyRows(f"more than {self._max_items} images in one request")
        return Parsed([from_base64(text) for text in texts], self._fields(members, _LIST_FIELD), len(texts))


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


def _named(names: Iterable[str]) -> str:
    """Some of the names, for a message."""
    found = [repr(name[:40]) for name in names]
    return ", ".join(found[:5]) + (", …" if len(found) > 5 else "") if found else "none"


def _unsupported(media_type: str, accepted: str) -> UnsupportedMediaType:
    found = f"Content-Type {media_type[:40]!r}" if media_type else "no Content-Type"
    curl = _CURL if media_type == "application/x-www-form-urlencoded" else ""
    return UnsupportedMediaType(f"found {found}; send {accepted}{curl}")
