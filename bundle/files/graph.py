"""Check that model.onnx cannot make the runtime read other files or call other code.

Reads only as much of the wire format of protocol buffers (https://protobuf.dev/programming-guides/encoding/) as
needed to visit every node and tensor, including those in subgraphs and functions. So serving does not need the onnx
package. The field numbers are those of onnx.proto, which never change.
"""

from collections.abc import Iterator

from aaserve.bundle.errors import BundleError

_DOMAINS = (b"", b"ai.onnx")  # the export writes no others; some operators of other domains open files or load code
_DEPTH = 64  # messages within messages
_PARTS = {  # message --> field --> message
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 9: "opset", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "training": {1: "graph", 2: "graph"},
}
_DOMAIN = {"node": 7, "opset": 1, "function": 10}  # message --> field
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # fields of a tensor
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5  # wire types


def check_graph(content: bytes) -> None:
    """Accept a self-contained ONNX model with standard operators only.

    Raises:
        BundleError: anything else; the message says what was found.
    """
    _check("model", memoryview(content), 0)


def _check(message: str, content: memoryview, depth: int) -> None:
    if depth > _DEPTH:
        raise BundleError(f"expected at most {_DEPTH} messages within each other, found more")
    for field, value in _fields(content):
        if message == "tensor" and (field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value != 0)):
            raise BundleError("expected a self-contained model, found one with external data")
        if not isinstance(value, memoryview):
            continue
        if field == _DOMAIN.get(message) and bytes(value) not in _DOMAINS:
            raise BundleError(f"expected standard ONNX operators only, found the domain {bytes(value)!r}")
        part = _PARTS.get(message, {}).get(field)
        if part is not None:
            _check(part, value, depth + 1)


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message: number and value, or bytes for strings and messages."""
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        if tag >= 2**32:  # the runtime's parser would read another field
            raise _no_model()
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(content, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            length, at = _varint(content, at)
        elif kind in (_FIXED_64, _FIXED_32):
            length = 8 if kind == _FIXED_64 else 4
        else:
            raise _no_model()
        if at + length > len(content):
            raise _no_model()
        yield tag >> 3, content[at : at + length]
        at += length


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """The number at an offset, and the offset after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            break
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise _no_model()


def _no_model() -> BundleError:
    return BundleError("expected an ONNX model, found something else")
