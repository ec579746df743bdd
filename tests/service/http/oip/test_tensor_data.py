"""Numbers in and out of JSON and bytes, for the kind of input that the shipped model does not have."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from aaserve.bundle.bundle import open_bundle
from aaserve.service.errors import InvalidRequest
from aaserve.service.http.body.json_body import parse_json
from aaserve.service.http.oip.infer_request import read_infer_request
from aaserve.service.http.oip.infer_response import write_infer_response
from aaserve.service.http.oip.tensor_data import Rows, from_bytes, from_json, to_bytes
from aaserve.service.http.oip.view import TensorSpec, View
from tests.detector_bundle import write_detector

SPEC = TensorSpec("image", "FP32", (2,))
SHAPE = (2, 2)


def read(data: object) -> Rows:
    """The data as they come out of a body."""
    body = json.dumps({"data": data}).encode()
    return from_json(parse_json(body, expected="an object", image_hint="")["data"], SPEC, SHAPE)


@pytest.mark.parametrize("data", [[1, 2.5, -3, 4e-3], [[1, 2.5], [-3, 4e-3]]], ids=["flat", "nested"])
def test_json_and_bytes_give_the_same_float32(data: list) -> None:
    expected = np.array([[1, 2.5], [-3, 4e-3]], np.float32)
    rows = read(data)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(from_bytes(memoryview(to_bytes(expected)), SPEC, SHAPE), expected)


def test_bytes_are_little_endian_on_every_machine() -> None:
    assert to_bytes(np.array([1], ">f4")) == to_bytes(np.array([1], "<f4")) == b"\0\0\x80\x3f"
    assert to_bytes([b"ab", b""]) == b"\2\0\0\0ab\0\0\0\0"


def test_bytes_at_an_odd_address() -> None:
    content = memoryview(b"x" + np.arange(4, dtype="<f4").tobytes())[1:]
    rows = from_bytes(content, SPEC, SHAPE)
    assert rows.flags.aligned
    assert rows.tolist() == [[0, 1], [2, 3]]


def test_outputs_of_any_shape_and_type_are_tensors_by_their_names(tmp_path: Path) -> None:
    view = View(open_bundle(write_detector(tmp_path, size=(4, 4))).manifest, pictures=False)
    assert [(spec.name, spec.datatype, spec.shape) for spec in view.outputs] == [
        ("boxes", "FP32", (3, 4)),
        ("scores", "FP32", (3,)),
        ("classes", "INT64", (3,)),
        ("count", "INT64", ()),
    ]
    request = {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [2, 4, 4, 3], "data": [0] * 96}]}
    wanted = [{"name": "count"}, {"name": "classes", "parameters": {"binary_data": True}}]
    asked = read_infer_request(json.dumps({**request, "outputs": wanted}).encode(), None, view, max_rows=2)
    classes = np.array([[1, 2, 2**40], [5, 6, -8]])
    answers = {"boxes": np.zeros((2, 3, 4), np.float32), "classes": classes, "count": np.array([4, 0])}
    content, length = write_infer_response(view, asked, answers)
    count, described = json.loads(content[:length])["outputs"]
    assert count == {"name": "count", "datatype": "INT64", "shape": [2], "data": [4, 0]}
    assert (described["datatype"], described["shape"]) == ("INT64", [2, 3])
    np.testing.assert_array_equal(np.frombuffer(content[length:], "<i8").reshape(2, 3), classes)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300, 10**400, True, None, "1", [1]], ids=str)
def test_json_that_is_no_finite_float32_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match=r"JSON|image"):
        read([1, 2, 3, value])


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_bytes_that_are_no_finite_float32_are_refused(value: float) -> None:
    with pytest.raises(InvalidRequest, match="finite"):
        from_bytes(memoryview(np.array([1, 2, 3, value], "<f4").tobytes()), SPEC, SHAPE)
