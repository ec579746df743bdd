"""A multipart/form-data body --> its images, the text of its other fields, and the names that are not known here.

Reads the body as it comes and keeps everything in memory: the body is bounded, and the file system may be read-only.
Names and text are UTF-8 (RFC 7578). Says what is wrong with a form that cannot be read, and where.
"""

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from typing import Any

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from aaserve.service.errors import InvalidParameter, InvalidRequest, TooManyRows

MAX_FIELDS = 16  # beside the images
_MAX_FIELD_BYTES = 65_536
_PLAIN = (b"", b"7bit", b"8bit", b"binary")


@dataclass(frozen=True, slots=True)
class Image:
    """The content of one part that should be an image; copying a large one takes too long for the event loop."""

    content: bytearray
    has_filename: bool


@dataclass(slots=True)
class Form:
    """What was sent; `unknown` are names of parts that were skipped."""

    images: list[Image] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


async def read_form(
    content_type: str, stream: AsyncIterator[bytes], *, image: str, takes: Collection[str], max_images: int
) -> Form:
    """Read the parts named `image`, and the text fields that the route `takes`.

    Raises:
        InvalidRequest: the form cannot be read.
        InvalidParameter: a text field comes twice, with different values.
        TooManyRows: more than `max_images` images.
    """
    boundary = _boundary(content_type)
    reader = _Reader(image, takes, max_images)
    try:
        parser = MultipartParser(boundary, reader.callbacks())
    except FormParserError as error:
        raise InvalidRequest("the boundary in Content-Type is too long; RFC 2046 allows 70 characters") from error
    # Text before the first boundary is ignored (RFC 2046, section 5.1.1); the boundary may be the first line.
    delimiter, preamble, is_empty, is_over = b"\r\n--" + boundary, b"\r\n", True, False
    async for chunk in stream:
        is_empty = is_empty and not chunk
        if not is_over:
            preamble += chunk
            start = preamble.find(delimiter)
            is_over = start >= 0
            chunk = preamble[start + 2 :] if is_over else b""
            preamble = preamble[1 - len(delimiter) :]  # a boundary may come in two pieces
        try:
            parser.write(chunk)
        except FormParserError as error:
            raise _malformed(reader) from error
    if reader.ended:
        return reader.form
    if is_empty:
        raise InvalidRequest("the multipart body is empty")
    if not is_over:
        raise InvalidRequest("the boundary that Content-Type names does not occur in the multipart body")
    if not reader.began:
        raise _malformed(reader)
    raise InvalidRequest("the multipart body is cut off: it ends without its closing boundary")


def _boundary(content_type: str) -> bytes:
    _, parameters = parse_options_header(content_type)
    charset = parameters.get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in ("utf-8", "utf8"):
        raise InvalidRequest(f"Content-Type has the charset {charset[:40]!r}; multipart forms are read as UTF-8")
    boundary = parameters.get(b"boundary", b"")
    if boundary:
        return boundary
    raise InvalidRequest(
        "Content-Type names no boundary of the multipart body; let the HTTP client write this header itself"
    )


def _malformed(reader: "_Reader") -> InvalidRequest:
    """What is wrong, as far as it can be told; the parser's own messages are not for clients."""
    if reader.began:
        return InvalidRequest(f"part {reader.began} of the multipart body is malformed")
    return InvalidRequest("the multipart body is malformed behind its first boundary; its lines end with CR LF")


class _Reader:
    """What the parser calls; `began` parts have begun."""

    def __init__(self, image: str, takes: Collection[str], max_images: int) -> None:
        self.form = Form()
        self.began = 0
        self.ended = False
        self._image = image
        self._takes = takes
        self._max_images = max_images
        self._name, self._value = b"", b""  # of the header that is being read
        self._headers: dict[bytes, bytes] = {}
        self._part = ""
        self._has_filename = False
        self._content = bytearray()
        self._size = 0

    def callbacks(self) -> Any:
        """The methods that the parser knows by their names."""
        return {name: getattr(self, name) for name in dir(self) if name.startswith("on_")}

    def on_part_begin(self) -> None:
        self.began += 1
        self._headers = {}
        self._content = bytearray()
        self._size = 0

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name, self._value = b"", b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if b"name" not in options:
            raise InvalidRequest(f"part {self.began} of the multipart body has no name")
        if self._headers.get(b"content-transfer-encoding", b"").strip().lower() not in _PLAIN:
            raise InvalidRequest(f"part {self.began} has a Content-Transfer-Encoding; send its bytes as they are")
        self._part = options[b"name"].decode("utf-8", "replace")
        self._has_filename = b"filename" in options
        if self._part == self._image:
            if len(self.form.images) == self._max_images:
                raise TooManyRows(f"more than {self._max_images} images in one request")
        elif self.began - len(self.form.images) > MAX_FIELDS:
            raise InvalidRequest(f"the multipart body has more than {MAX_FIELDS} fields that are not {self._image!r}")
        elif self._part not in self._takes:
            self.form.unknown.append(self._part)

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part != self._image:
            if self._part not in self._takes:
                return
            self._size += end - start
            if self._size > _MAX_FIELD_BYTES:
                raise InvalidRequest(f"the multipart field {self._part!r} has more than {_MAX_FIELD_BYTES} bytes")
        self._content += data[start:end]

    def on_part_end(self) -> None:
        if self._part == self._image:
            self.form.images.append(Image(self._content, self._has_filename))
        elif self._part in self._takes:
            try:
                text = self._content.decode()
            except UnicodeDecodeError:
                raise InvalidRequest(f"the multipart field {self._part!r} is not UTF-8 text") from None
            if self.form.fields.setdefault(self._part, text) != text:
                raise InvalidParameter(f"{self._part} is given more than once, with different values")

    def on_end(self) -> None:
        self.ended = True
