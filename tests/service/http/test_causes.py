"""An error names its own cause: what is wrong with the body, what was expected, and how to send it instead."""

import asyncio
import base64
import codecs
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aaserve.service.http.body.multipart import read_form
from tests.helpers import EXAMPLES, RunningService

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
TEXT = base64.b64encode(JPEG).decode()
URL_SAFE = base64.urlsafe_b64encode(JPEG).decode()
JSON = "application/json"
FORM = "multipart/form-data; boundary=x"
BATCH, PREDICTIONS = "/classify/batch", "/predictions/aa-cifar100"
PICTURES = "/v2/models/aa-cifar100:pictures/infer"
IMAGE = ('name="image"; filename="a.jpg"', JPEG)
ENCODED = 'name="image"; filename="a.jpg"\r\nContent-Transfer-Encoding: base64'


def form(*parts: tuple[str, bytes], end: bytes = b"--x--\r\n") -> bytes:
    pieces = [f"--x\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content for head, content in parts]
    return b"".join(piece + b"\r\n" for piece in pieces) + end


def texts(number: int) -> list[tuple[str, bytes]]:
    return [(f'name="field{index}"', b"x") for index in range(number)]


# path, Content-Type, body, status, words
CAUSES: dict[str, tuple[str, str, bytes, int, str]] = {
    "a file's text": (
        "/classify",
        FORM,
        form(('name="image"', b"a" * 70_000)),
        400,
        "'image' is text; send it as a file",
    ),
    "no closing boundary": ("/classify", FORM, form(IMAGE, end=b""), 400, "ends without its closing boundary"),
    "cut off": ("/classify", FORM, form(IMAGE)[:5000], 400, "ends without its closing boundary"),
    "a batch that is cut off": (BATCH, FORM, form(IMAGE)[:5000], 400, "ends without its closing boundary"),
    "no boundary": ("/classify", "multipart/form-data", form(IMAGE), 400, "names no boundary"),
    "an empty boundary": ("/classify", "multipart/form-data; boundary=", form(IMAGE), 400, "names no boundary"),
    "a long boundary": ("/classify", FORM + "x" * 300, form(IMAGE), 400, "boundary in Content-Type is too long"),
    "another boundary": ("/classify", FORM + "y", form(IMAGE), 400, "boundary that Content-Type names does not occur"),
    "lines of LF": ("/classify", FORM, form(IMAGE).replace(b"\r\n", b"\n"), 400, "lines end with CR LF"),
    "a header that is none": (
        "/classify",
        FORM,
        b"--x\r\n\0: x\r\n\r\n\r\n--x--",
        400,
        "part 1 of the multipart body is",
    ),
    "an empty form": ("/classify", FORM, b"", 400, "the multipart body is empty"),
    "a form without parts": ("/classify", FORM, b"--x--\r\n", 400, "expected a multipart field 'image', found none"),
    "a part without a name": (
        "/classify",
        FORM,
        form(('filename="a"', JPEG)),
        400,
        "part 1 of the multipart body has no name",
    ),
    "a part in base64": ("/classify", FORM, form((ENCODED, b"/9j/")), 400, "part 1 has a Content-Transfer-Encoding"),
    "too many fields": ("/classify", FORM, form(IMAGE, *texts(17)), 400, "more than 16 fields that are not 'image'"),
    "two images": ("/classify", FORM, form(IMAGE, IMAGE), 400, "expected one multipart field 'image', found several"),
    "a name of text": ("/classify", FORM, form(IMAGE, ('name="model"', b"\xff")), 400, "'model' is not UTF-8 text"),
    "a long name": (
        "/classify",
        FORM,
        form(IMAGE, ('name="model"', b"a" * 70_000)),
        400,
        "'model' has more than 65536",
    ),
    **{
        f"the charset {name}": ("/classify", f"{FORM}; charset={name}", form(IMAGE), 400, f"charset '{name}'")
        for name in ("undefined", "punycode", "utf-16", "hex", "x" * 30)
    },
    **{
        f"a file under {name}": (
            "/classify",
            FORM,
            form((f'name="{name}"; filename="a"', bytes(70_000))),
            400,
            f"found '{name}'",
        )
        for name in ("file", "images", "data", "Image", "image[]")
    },
    "a batch under images": (BATCH, FORM, form(('name="images"; filename="a"', JPEG)), 400, "found 'images'"),
    "TorchServe's under image": (
        PREDICTIONS,
        FORM,
        form(IMAGE),
        400,
        "expected a multipart field 'data', found 'image'",
    ),
    "an empty JSON": ("/classify", JSON, b"", 400, 'the body is empty; expected a JSON object with "image"'),
    "a broken JSON": ("/classify", JSON, b'{"image":\n x}', 400, "the body is not JSON: line 2, column 2"),
    "bytes as JSON": ("/classify", JSON, b'{"image": "\xff"}', 400, "it is not UTF-8 text"),
    "a picture as JSON": ("/classify", JSON, JPEG, 400, "the body is a JPEG image, not JSON"),
    "a form as JSON": ("/classify", JSON, form(IMAGE), 400, "the body is a multipart form, not JSON"),
    "gzip as JSON": ("/classify", JSON, gzip.compress(b"{}"), 400, "send Content-Encoding: gzip"),
    "gzip as a picture": ("/classify", "image/jpeg", gzip.compress(JPEG), 415, "send Content-Encoding: gzip"),
    "an array": (
        "/classify",
        JSON,
        json.dumps([TEXT]).encode(),
        400,
        'expected a JSON object with "image", found an array',
    ),
    "a string": ("/classify", JSON, json.dumps(TEXT).encode(), 400, "found a string"),
    "instances": ("/classify", JSON, b'{"instances": [{"b64": ""}]}', 400, "found 'instances'"),
    "an empty object": ("/classify", JSON, b"{}", 400, 'expected a JSON object with "image", found none'),
    "a list of one": (
        "/classify",
        JSON,
        b'{"image": [""]}',
        400,
        'expected "image" to be base64 or a data URI, found an array',
    ),
    "null": ("/classify", JSON, b'{"image": null}', 400, "found null"),
    "one image as a batch": (
        BATCH,
        JSON,
        b'{"image": ""}',
        400,
        "expected a JSON object with \"images\", found 'image'",
    ),
    "a string as a batch": (BATCH, JSON, b'{"images": ""}', 400, "array of base64 or data URIs, found a string"),
    "a raw batch": (BATCH, "image/jpeg", JPEG, 415, "the address without /batch takes an image as the body"),
    "a web form": ("/classify", "application/x-www-form-urlencoded", b"image=x", 415, "with curl: -F image=@FILE"),
    "another type": ("/classify", "text/plain", JPEG, 415, "found Content-Type 'text/plain'; send image/*"),
    "JSON without its type": (
        "/classify",
        "",
        b' {"image": ""}',
        415,
        "found JSON; send Content-Type: application/json",
    ),
    "JSON as a picture": (
        "/classify",
        "image/jpeg",
        b'{"image": ""}',
        415,
        "found JSON; send Content-Type: application/json",
    ),
    "a form without its type": (
        "/explain",
        "",
        form(IMAGE),
        415,
        "found a multipart form; send Content-Type: multipart/",
    ),
    "TorchServe's JSON": (PREDICTIONS, JSON, b'{"data": ""}', 415, "found JSON; POST /classify takes it"),
    "a picture to the protocol": (PICTURES, "image/jpeg", JPEG, 400, "send Inference-Header-Content-Length: 0"),
    "a form to the protocol": (PICTURES, FORM, form(IMAGE), 400, "the body is a multipart form, not JSON"),
    "nothing to the protocol": (PICTURES, JSON, b"", 400, "the body is empty; expected a JSON object with `inputs`"),
    "a list to the index": (
        "/v2/repository/index",
        JSON,
        b"[]",
        400,
        "expected no body or a JSON object, found an array",
    ),
}


@pytest.mark.parametrize(("path", "media_type", "body", "status", "words"), CAUSES.values(), ids=CAUSES)
def test_an_error_names_its_cause(
    service: RunningService, path: str, media_type: str, body: bytes, status: int, words: str
) -> None:
    answer = service.client.post(path, content=body, headers={"Content-Type": media_type} if media_type else {})
    told = answer.json()
    assert answer.status_code == status
    assert words in (told.get("detail") or told.get("error") or told.get("message"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("*" * 40, "found '*'"),
        ("ÄÖÜ", "found 'Ä'"),
        ("abcde", "cut off"),
        ("data:image/jpeg;base64", "no comma"),
        ("data:image/svg+xml,%3Csvg", "expected ;base64 before its comma"),
        ("https://example.com/cat.jpg", "nothing is fetched"),
        ("examples/rocket.jpg", "found '.'"),
    ],
)
def test_text_that_is_no_image_is_said_to_be_what_it_is(service: RunningService, text: str, words: str) -> None:
    assert words in service.client.post("/classify", json={"image": text}).json()["detail"]
    [result] = service.client.post("/classify/batch", json={"images": [text]}).json()["results"]
    assert words in result["problem"]["detail"]
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}
    assert words in service.client.post(PICTURES, json={"inputs": [tensor]}).json()["error"]


def preamble(text: bytes, behind: bytes = b"") -> dict[str, Any]:
    return {"content": text + form(IMAGE) + behind, "headers": {"Content-Type": FORM}}


GOOD: dict[str, dict[str, Any]] = {
    "a preamble": preamble(b"This is a message\r\nof several parts: --x\r\n\r\n", behind=b"and an epilogue"),
    "a line break before the form": preamble(b"\r\n"),
    "a preamble of a megabyte": preamble(b"a" * 2**20 + b"\r\n"),
    "URL-safe": {"json": {"image": URL_SAFE}},
    "URL-safe without padding": {"json": {"image": URL_SAFE.rstrip("=")}},
    "without padding": {"json": {"image": TEXT.rstrip("=")}},
    "DATA:": {"json": {"image": f"DATA:image/jpeg;base64,{TEXT}"}},
    ";BASE64": {"json": {"image": f"data:image/jpeg;BASE64,{TEXT}"}},
    "parameters": {"json": {"image": f"data:image/jpeg;name=a.jpg;charset=utf-8;base64,{TEXT}"}},
    "spaces": {"json": {"image": f" data:image/jpeg; base64, {TEXT}\n"}},
    "percent signs": {"json": {"image": f"data:;base64,{TEXT.replace('+', '%2B').replace('/', '%2F')}"}},
    "a URL-safe data URI": {"json": {"image": f"data:;base64,{URL_SAFE}"}},
    "a byte order mark": {
        "content": codecs.BOM_UTF8 + json.dumps({"image": TEXT}).encode(),
        "headers": {"Content-Type": JSON},
    },
    "a part without a filename": {
        "content": form(('name="image"\r\nContent-Type: image/jpeg', JPEG)),
        "headers": {"Content-Type": FORM},
    },
    "a quoted boundary and a charset": {
        "content": form(IMAGE),
        "headers": {"Content-Type": 'multipart/form-data; charset="UTF-8"; boundary="x"'},
    },
}


@pytest.mark.parametrize("request_", GOOD.values(), ids=GOOD)
def test_an_unusual_but_valid_form_is_read(service: RunningService, request_: dict[str, Any]) -> None:
    answer = service.client.post("/classify", **request_)
    assert (answer.status_code, answer.text) == (200, service.classify(JPEG).text)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_preamble_may_come_in_any_pieces(size: int) -> None:
    content = b"\r\n--\r\n-x\r\n--\r" + b"\r\n" + form(('name="image"; filename="a"', b"picture"))

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), size):
            yield content[start : start + size]

    async def scenario() -> None:
        [image] = (await read_form(FORM, pieces(), image="image", takes=(), max_images=1)).images
        assert image.content == b"picture"

    asyncio.run(scenario())
