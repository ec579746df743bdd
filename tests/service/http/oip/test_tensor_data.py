"""Numbers in and out of JSON and bytes, for the kind of input that the shipped model does not have."""

import math

import numpy as np
import pytest

from aaserve.service.errors import InvalidRequest
from aaserve.service.http.oip.tensor_data import from_bytes, from_json, to_bytes
from aaserve.service.http.oip.view import TensorSpec

SPEC = TensorSpec("image", "FP32", (2,))
SHAPE = (2, 2)


@pytest.mark.parametrize("data", [[1, 2.5, -3, 4e-3], [[1, 2.5], [-3, 4e-3]]], ids=["flat", "nested"])
def test_json_and_bytes_give_the_same_float32(data: list) -> None:
    expected = np.array([[1, 2.5], [-3, 4e-3]], np.float32)
    assert from_json(data, SPEC, SHAPE).dtype == np.float32
    np.testing.assert_array_equal(from_json(data, SPEC, SHAPE), expected)
    np.testing.assert_array_equal(from_bytes(memoryview(to_bytes(expected)), SPEC, SHAPE), expected)


def test_bytes_are_little_endian_whatever_the_machine() -> None:
    assert to_bytes(np.array([1], ">f4")) == to_bytes(np.array([1], "<f4")) == b"\0\0\x80\x3f"
    assert to_bytes([b"ab", b""]) == b"\2\0\0\0ab\0\0\0\0"


def test_bytes_at_an_odd_address() -> None:
    content = memoryview(b"x" + np.arange(4, dtype="<f4").tobytes())[1:]
    rows = from_bytes(content, SPEC, SHAPE)
    assert rows.flags.aligned
    assert rows.tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300, 10**400, True, None, "1", [1]], ids=str)
def test_json_that_is_no_finite_float32_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match="image"):
        from_json([1, 2, 3, value], SPEC, SHAPE)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_bytes_that_are_no_finite_float32_are_refused(value: float) -> None:
    with pytest.raises(InvalidRequest, match="finite"):
        from_bytes(memoryview(np.array([1, 2, 3, value], "<f4").tobytes()), SPEC, SHAPE)
