"""JSON bodies: base64 and arrays of numbers are read piece by piece, and what is left is bounded."""

import base64
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aaserve.service.errors import InvalidRequest
from aaserve.service.http.body.encoded_text import from_base64
from aaserve.service.http.body.json_body import parse_json
from aaserve.service.http.body.long_values import LONG, MAX_TEXT, MAX_TEXT_OF_ITEM, PIECE, LongText, NumberArray
from aaserve.service.http.oip.tensor_data import from_json
from aaserve.service.http.oip.view import TensorSpec
from tests.helpers import RunningService

ROW = (3, 40, 30)
SPEC = TensorSpec("image", "FP32", ROW)
BYTES = bytes(np.random.default_rng(0).integers(0, 256, 2 * PIECE + 1, np.uint8))
BASE64 = base64.b64encode(BYTES)
INFER = "/v2/models/aa-cifar100/infer"


def parsed(body: bytes, max_items: int = 1) -> Any:
    return parse_json(body, expected="an object", image_hint="", max_items=max_items)


def lines(text: bytes) -> bytes:
    return b"\r\n".join(text[start : start + 76] for start in range(0, len(text), 76))


@pytest.mark.parametrize("layout", [{}, {"indent": 1}, {"separators": (",", ":")}], ids=["plain", "indented", "dense"])
@pytest.mark.parametrize("rows", [1, 9], ids=["one piece", "many pieces"])
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_numbers_are_those_that_json_reads(nested: bool, rows: int, layout: dict[str, Any]) -> None:
    powers = np.random.default_rng(rows).uniform(-30, 30, (rows, *ROW))
    numbers = 10**powers * np.where(powers > 0, 1, -1)
    text = json.dumps({"data": (numbers if nested else numbers.ravel()).tolist(), "end": 1}, **layout).encode()
    content = parsed(text)
    assert content["end"] == 1
    found = from_json(content["data"], SPEC, numbers.shape)
    expected = np.array(json.loads(text)["data"], np.float32).reshape(numbers.shape)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "text",
    [
        "[1,,2,3,4]",
        "[1,2,3,4,]",
        "[1,2,3 4]",
        "[1,[2,3,4]]",
        "[[1,2],[3]],[4]]",
        "[[1,2]],[[3,4]]",
        "[1,2],[3,4]",
        "[[1[,2]],[3,4]]",
        "[[1,2],[3,4,5]]",
        "[[1,2,3],[4]]",
        "[[[1,2],[3,4]]]",
        "[[],[],[],[]]",
        "[]",
        "[01,2,3,4]",
        "[+1,2,3,4]",
        "[1,2,3,NaN]",
        "[1,2,3,-Infinity]",
        "[1,2,3,null]",
        "[1,2,3,1e999]",
        "[1,2,3," + "9" * (PIECE + 1) + "]",
        "[" + " " * (PIECE + 1) + "1,2,3,4]",
    ],
    ids=lambda text: text[:20],
)
def test_arrays_that_are_no_numbers_of_that_shape_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        from_json(parsed(b'{"data": %b}' % text.encode())["data"], TensorSpec("image", "FP32", (2,)), (2, 2))


def test_an_array_of_numbers_takes_no_more_memory_than_its_numbers() -> None:
    numbers = np.random.default_rng(0).integers(0, 1_000_000, (100, *ROW))
    body = json.dumps({"data": numbers.tolist()}).encode()
    spec = TensorSpec("image", "FP32", ROW)
    tracemalloc.start()
    try:
        found = from_json(parsed(body)["data"], spec, numbers.shape)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(found, np.ndarray)
    assert peak < 2 * found.nbytes + 2_000_000


@pytest.mark.parametrize(
    ("text", "escape"),
    {
        "plain": (BASE64, None),
        "lines": (lines(BASE64), None),
        "blanks": (b" ".join(BASE64[at : at + 1] for at in range(len(BASE64))), None),
        "URL-safe, unpadded": (base64.urlsafe_b64encode(BYTES).rstrip(b"="), None),
        "escaped slashes": (BASE64, (b"/", b"\\/")),
        "escaped plus": (BASE64, (b"+", b"\\u002B")),
        "data URI": (b"data:image/png;base64," + BASE64, (b"/", b"\\/")),
        "percent": (b"DATA:;base64," + BASE64.replace(b"+", b"%2B").replace(b"=", b"%3D"), None),
    }.values(),
    ids=lambda value: "",
)
def test_base64_may_be_written_in_any_way_that_json_has(text: bytes, escape: tuple[bytes, bytes] | None) -> None:
    written = json.dumps({"image": text.decode()}).encode()
    found = parsed(written.replace(*escape) if escape else written)["image"]
    assert isinstance(found, LongText)
    assert from_base64(found) == BYTES


@pytest.mark.parametrize(
    ("end", "found"),
    [
        (b"*", "'*'"),
        ("😀".encode(), "'😀'"),
        (b"A", "cut off"),
        (b"==A", "'='"),
        (b"\\q", "escape"),
    ],
)
def test_bad_base64_after_many_good_bytes_is_named(end: bytes, found: str) -> None:
    text = parsed(b'{"image": "%b", "x": 1}' % (BASE64[: 2 * PIECE] + end))["image"]
    error = from_base64(text)
    assert isinstance(error, InvalidRequest)
    assert found in str(error)


def test_mistakes_are_where_the_body_has_them() -> None:
    body = b'{"image": "%b",\n "data": [%b], "x" 1}' % (BASE64, b"1," * PIECE + b"1")
    with pytest.raises(InvalidRequest, match=rf"line 2, column {len(body.split(bytes([10]))[1]) - 1}$"):
        parsed(body)


@pytest.mark.parametrize(
    ("name", "value"),
    [("image", b'"%b"' % BASE64), ("data", b"[%b]" % (b"1," * PIECE + b"1"))],
    ids=["text", "numbers"],
)
def test_a_long_value_that_is_given_twice_is_refused_without_being_compared(name: str, value: bytes) -> None:
    twice = b'{"%b": %b, "%b": %b}' % (name.encode(), value, name.encode(), value)
    with pytest.raises(InvalidRequest, match=f"the JSON has '{name}' more than once$"):
        parsed(twice)
    parsed(b'{"%b": %b, "x": 1, "x": 1}' % (name.encode(), value))


def test_long_names_and_words_of_python_are_no_json() -> None:
    for body in (b'{"%b": 1}' % (b"a" * LONG), b'{"a": NaN}', b'{"a": -Infinity}', b"[Infinity]", b'{"a": NaN"}'):
        with pytest.raises(InvalidRequest, match="not JSON"):
            parsed(body)
    assert parsed(b'{"NaN": "Infinity"}') == {"NaN": "Infinity"}


MANY: dict[str, Callable[[int], bytes]] = {
    "arrays": lambda size: b'{"image": [' + b"[]," * (size // 3) + b"0]}",
    "numbers": lambda size: b'{"image": [' + b"1," * (size // 2) + b"0]}",
    "strings": lambda size: b"[" + b'"",' * (size // 3) + b"0]",
    "objects": lambda size: b'{"a":' * (size // 5),
    "empty data": lambda size: b"{" + b'"data":[],' * (size // 10) + b"}",
    "blanks": lambda size: b" " * size + b"{}",
    "digits": lambda size: b"9" * size,
    "escapes": lambda size: b'{"image": "' + b'\\"' * (size // 2) + b'"}',
    "unended": lambda size: b'{"image": "' + b"a" * size,
}


@pytest.mark.parametrize("make", MANY.values(), ids=MANY.keys())
def test_other_values_of_a_body_are_bounded(make: Callable[[int], bytes]) -> None:
    body = make(2_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest):
            parsed(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * MAX_TEXT


def test_more_items_may_have_more_text() -> None:
    items = 500
    body = json.dumps({"images": ["a" * (LONG - 2)] * items}).encode()
    assert len(body) > MAX_TEXT + MAX_TEXT_OF_ITEM
    assert len(parsed(body, max_items=items)["images"]) == items
    with pytest.raises(InvalidRequest, match="bytes of values"):
        parsed(body, max_items=1)


def test_data_of_numbers_are_no_picture(service: RunningService) -> None:
    for body in ({"image": {"data": [1, 2]}}, {"image": "", "data": [1, 2]}):
        answer = service.client.post("/classify", json=body)
        assert answer.status_code in (400, 422)
    assert isinstance(parsed(b'{"data": [1]}')["data"], NumberArray)


def test_ten_megabytes_of_json_get_an_error(service: RunningService) -> None:
    size = 10_000_000
    for body in (make(size) for make in MANY.values()):
        answer = service.client.post(INFER, content=body)
        assert answer.status_code in (400, 413)
    body = b'{"inputs":[{"name":"image","shape":[32,32,32,3],"datatype":"UINT8","data":[' + b"1," * 4_900_000 + b"0]}]}"
    answer = service.client.post(INFER, content=body)
    assert (answer.status_code, "shape" in answer.text) == (400, True)
