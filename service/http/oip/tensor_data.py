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

from aaserve.service.errors import InvalidRequest, ServiceError
from aaserve.service.http.encoded_text import from_base64
from aaserve.service.http.oip.view import BYTES, TensorSpec

_DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1")}
_LENGTH = struct.Struct("<I")

Rows = NDArray[Any] | list[bytes]  # (N, ...) numbers, or N pictures


def from_json(data: object, spec: TensorSpec, shape: Sequence[int]) -> Rows:
    """Read `data`, flat or nested as `shape` says; pictures are base64 or data URIs.

    Raises:
        InvalidRequest: other elements, or another number of them.
    """
    elements = _flat(data, shape)
    if elements is None or len(elements) != prod(shape):
        raise InvalidRequest(f"the data of {spec.name!r} do not have the shape {list(shape)}")
    if spec.datatype == BYTES:
        return [_picture(element) for element in elements]
    kinds = set(map(type, elements))
    if not kinds <= ({int} if spec.datatype == "UINT8" else {int, float}):
        raise InvalidRequest(f"the data of {spec.name!r} are not all {spec.datatype} numbers")
    if spec.datatype == "UINT8" and not 0 <= min(elements) <= max(elements) <= 255:
        raise InvalidRequest(f"the data of {spec.name!r} are not all from 0 to 255")
    try:
        with np.errstate(over="ignore"):
            numbers = np.array(elements, np.float64).astype(_DTYPES[spec.datatype])
    except OverflowError as error:
        raise InvalidRequest(f"the data of {spec.name!r} are not all {spec.datatype} numbers") from error
    return _finite(numbers.reshape(shape), spec)


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
    dtype = _DTYPES[spec.datatype]
    expected = prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise InvalidRequest(f"expected {expected} bytes for {spec.name!r}, found {len(content)}")
    return _finite(np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("=")), spec)


def to_bytes(values: NDArray[Any] | list[bytes]) -> bytes:
    """As `from_bytes` reads it."""
    if isinstance(values, list):
        return b"".join(chain.from_iterable((_LENGTH.pack(len(element)), element) for element in values))
    return values.astype(values.dtype.newbyteorder("<")).tobytes()


def _flat(data: object, shape: Sequence[int]) -> list[Any] | None:
    """The elements in row-major order; None if the nesting is not the shape's."""
    if not isinstance(data, list):
        return None
    if list not in set(map(type, data)):
        return data
    level: list[Any] = [data]
    for size in shape:
        if set(map(type, level)) != {list} or set(map(len, level)) != {size}:
            return None
        level = list(chain.from_iterable(level))
    return level


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


def _picture(element: object) -> bytes:
    picture = from_base64(element)
    if isinstance(picture, ServiceError):
        raise picture
    return picture


def _finite(numbers: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    if spec.datatype == "FP32" and not np.isfinite(numbers).all():
        raise InvalidRequest(f"the data of {spec.name!r} are not all finite FP32 numbers")
    return numbers
