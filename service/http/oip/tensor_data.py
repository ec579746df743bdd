"""The numbers or pictures of one tensor: JSON or bytes <--> arrays. Sizes are compared as Python integers.

Everything is checked before anything is allocated for it; what comes out has exactly the shape that was declared.
"""

import struct
from collections.abc import Sequence
from itertools import chain
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aaserve.service.errors import InvalidRequest
from aaserve.service.http.body.encoded_text import from_base64, raised
from aaserve.service.http.body.long_values import NumberArray
from aaserve.service.http.oip.view import BYTES, TensorSpec

DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "INT64": np.dtype("<i8"), "UINT8": np.dtype("u1")}
_LENGTH = struct.Struct("<I")

Rows = NDArray[Any] | list[bytes]  # (N, ...) numbers, or N pictures


def from_json(data: object, spec: TensorSpec, shape: Sequence[int]) -> Rows:
    """Read `data`, flat or nested as `shape` says; pictures are a list of base64 or data URIs.

    Raises:
        InvalidRequest: other elements, or another number of them.
    """
    if isinstance(data, NumberArray) and spec.datatype != BYTES:
        return _numbers(data, spec, shape)
    if isinstance(data, list) and spec.datatype != BYTES:
        raise _not_all(spec, f"{spec.datatype} numbers")
    if not isinstance(data, list) or len(data) != prod(shape):
        raise _not_the_shape(spec, shape)
    return [raised(from_base64(element)) for element in data]


def from_bytes(content: memoryview, spec: TensorSpec, shape: Sequence[int]) -> Rows:
    """Read little-endian, row-major numbers, or pictures that have their length in four bytes before them.

    Raises:
        InvalidRequest: more or fewer bytes than `shape` needs.
    """
    if spec.datatype == BYTES:
        pictures = _split(content, at_most=prod(shape))
        if pictures is None or len(pictures) != prod(shape):
            raise InvalidRequest(f"the bytes of {spec.name!r} are not {prod(shape)} elements with their lengths")
        return pictures
    dtype = DTYPES[spec.datatype]
    expected = prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise InvalidRequest(f"expected {expected} bytes for {spec.name!r}, found {len(content)}")
    return _finite(np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("=")), spec)


def to_bytes(values: NDArray[Any] | list[bytes]) -> bytes:
    """As `from_bytes` reads it."""
    if isinstance(values, list):
        return b"".join(chain.from_iterable((_LENGTH.pack(len(element)), element) for element in values))
    return values.astype(values.dtype.newbyteorder("<")).tobytes()


def _numbers(array: NumberArray, spec: TensorSpec, shape: Sequence[int]) -> NDArray[Any]:
    """Read the numbers piece by piece, so that neither the interpreter lock nor memory goes into objects for them."""
    count = prod(shape)
    if len(array) < 2 * count + 1:  # a digit for each number, and what separates them
        raise _not_the_shape(spec, shape)
    numbers = np.empty(count, DTYPES[spec.datatype].newbyteorder("="))
    expected, compared, filled = b"", 0, 0
    for structure, values in array.pieces():
        checked = _checked(values, spec)
        expected = expected or _structure(shape if structure.startswith(b"[[") else [count])
        if not expected.startswith(structure, compared) or filled + len(values) > count:
            raise _not_the_shape(spec, shape)
        numbers[filled : filled + len(values)] = checked
        compared += len(structure)
        filled += len(values)
    if compared != len(expected) or filled != count:
        raise _not_the_shape(spec, shape)
    return numbers.reshape(shape)


def _structure(shape: Sequence[int]) -> bytes:
    """The brackets and commas of an array of this shape."""
    text = b""
    for size in reversed(shape):
        text = b"[" + ((text + b",") * size)[:-1] + b"]"
    return text


def _checked(values: list[Any], spec: TensorSpec) -> NDArray[Any]:
    """The numbers of a piece in the type of the input; those of JSON may be integers of any size."""
    if not set(map(type, values)) <= ({int} if spec.datatype == "UINT8" else {int, float}):
        raise _not_all(spec, f"{spec.datatype} numbers")
    if spec.datatype == "UINT8":
        if values and not 0 <= min(values) <= max(values) <= 255:
            raise _not_all(spec, "from 0 to 255")
        return np.array(values, np.uint8)
    try:
        with np.errstate(over="ignore"):
            numbers = np.array(values, np.float64).astype(np.float32)
    except OverflowError:
        raise _not_all(spec, "FP32 numbers") from None
    return _finite(numbers, spec)


def _split(content: memoryview, *, at_most: int) -> list[bytes] | None:
    """The elements of BYTES data; None if a length points beyond the end."""
    elements: list[bytes] = []
    position = 0
    while position < len(content) and len(elements) <= at_most:
        start = position + _LENGTH.size
        if start > len(content):
            return None
        position = start + _LENGTH.unpack(content[position:start])[0]
        if position > len(content):
            return None
        elements.append(bytes(content[start:position]))
    return elements


def _finite(numbers: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    if spec.datatype == "FP32" and not np.isfinite(numbers).all():
        raise _not_all(spec, "finite FP32 numbers")
    return numbers


def _not_all(spec: TensorSpec, what: str) -> InvalidRequest:
    return InvalidRequest(f"the data of {spec.name!r} are not all {what}")


def _not_the_shape(spec: TensorSpec, shape: Sequence[int]) -> InvalidRequest:
    return InvalidRequest(f"the data of {spec.name!r} do not have the shape {list(shape)}")
