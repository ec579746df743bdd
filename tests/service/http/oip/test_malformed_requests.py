"""/v2 over a socket: every way to get a request wrong."""

import gzip
import json
import struct
import zlib

import httpx
import pytest

from tests.helpers import RunningService
from tests.service.http.oip.infer_requests import (
    ATTENTION,
    JPEG,
    LENGTH,
    PICTURES,
    ROW,
    TENSORS,
    assert_error,
    binary,
    outputs,
    picture,
    tensor,
)
from tests.service.http.test_bad_input import png_bomb


def raw(content: bytes, **headers: str | bytes) -> dict:
    return {"content": content, "headers": headers}


def sized(size: object, tail: bytes, **changes: object) -> dict:
    return binary(tensor(data=None, parameters={"binary_data_size": size}, **changes), tail)


def counted(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def flagged(**parameters: object) -> dict:
    return {"json": {**tensor(), "parameters": parameters}}


GOOD = json.dumps(tensor()).encode()

MALFORMED = {
    "raw binary too short": (TENSORS, raw(bytes(ROW - 1), **{LENGTH: "0"}), 400),
    "raw binary too long": (TENSORS, raw(bytes(ROW + 1), **{LENGTH: "0"}), 400),
    "raw binary empty": (PICTURES, raw(b"", **{LENGTH: "0"}), 400),
    "raw binary no picture": (PICTURES, raw(b"427", **{LENGTH: "0"}), 415),
    "byte too many elements": (PICTURES, binary(picture(data=None), counted(JPEG, JPEG)), 400),
    "byte too few elements": (PICTURES, binary(picture(data=None, shape=[2]), counted(JPEG)), 400),
    "byte a million empty elements": (PICTURES, binary(picture(data=None), bytes(4_000_000)), 400),
    "byte length beyond the end": (PICTURES, binary(picture(data=None), struct.pack("<I", 2**32 - 1) + JPEG), 400),
    "byte length cut off": (PICTURES, binary(picture(data=None), b"\x01\x00"), 400),
    "byte JSON not base64": (PICTURES, {"json": picture(data=["*"])}, 400),
    "byte JSON not strings": (PICTURES, {"json": picture(data=[5])}, 400),
    "byte too many rows": (PICTURES, {"json": picture(shape=[33], data=["" for _ in range(33)])}, 413),
    "byte a bomb": (PICTURES, raw(png_bomb(30_000), **{LENGTH: "0"}), 413),
    "byte truncated picture": (PICTURES, raw(JPEG[:4000], **{LENGTH: "0"}), 400),
    "dimensions swapped": (TENSORS, {"json": tensor(shape=[1, 3, 32, 32])}, 400),
    "dimensions missing": (TENSORS, {"json": tensor(shape=[ROW])}, 400),
    "dimensions flat": (TENSORS, {"json": tensor(shape=[])}, 400),
    "dimensions very many": (TENSORS, {"json": tensor(shape=[1] * 100_000)}, 400),
    "dimensions negative": (TENSORS, {"json": tensor(shape=[-1, 32, 32, 3])}, 400),
    "dimensions zero": (TENSORS, {"json": tensor(shape=[0, 32, 32, 3], data=[])}, 400),
    "dimensions true": (TENSORS, {"json": tensor(shape=[True, 32, 32, 3])}, 400),
    "dimensions fractional": (TENSORS, {"json": tensor(shape=[1.0, 32, 32, 3])}, 400),
    "dimensions words": (TENSORS, {"json": tensor(shape=["1", 32, 32, 3])}, 400),
    "dimensions overflow": (TENSORS, sized(0, b"", shape=[2**62, 32, 32, 3]), 413),
    "dimensions overflow to the size": (TENSORS, sized(ROW, bytes(ROW), shape=[2**64 + 1, 32, 32, 3]), 413),
    "dimensions absent": (TENSORS, {"json": tensor(shape=None)}, 400),
    "inputs two": (TENSORS, {"json": {"inputs": tensor()["inputs"] * 2}}, 400),
    "inputs none": (TENSORS, {"json": {"inputs": []}}, 400),
    "inputs absent": (TENSORS, {"json": {}}, 400),
    "inputs an object": (TENSORS, {"json": {"inputs": {}}}, 400),
    "inputs numbers": (TENSORS, {"json": {"inputs": [1]}}, 400),
    "input of another name": (TENSORS, {"json": tensor(name="input")}, 400),
    **{
        f"datatype {name}": (TENSORS, {"json": tensor(datatype=name)}, 400)
        for name in ("FP16", "BF16", "FP32", "INT8", "BYTES", "uint8", "STRING", "", 5, ["UINT8"])
    },
    "datatype absent": (TENSORS, {"json": tensor(datatype=None)}, 400),
    "datatype pixels for pictures": (PICTURES, {"json": tensor()}, 400),
    "data too few": (TENSORS, {"json": tensor(data=[1] * (ROW - 1))}, 400),
    "data too many": (TENSORS, {"json": tensor(data=[1] * (ROW + 1))}, 400),
    "data out of range": (TENSORS, {"json": tensor(data=[256] * ROW)}, 400),
    "data negative": (TENSORS, {"json": tensor(data=[-1] * ROW)}, 400),
    "data enormous": (TENSORS, {"json": tensor(data=[10**400] * ROW)}, 400),
    "data fractional": (TENSORS, {"json": tensor(data=[0.5] * ROW)}, 400),
    "data words": (TENSORS, {"json": tensor(data=["1"] * ROW)}, 400),
    "data one long word": (TENSORS, {"json": tensor(data=["1" * 2_000_000, *[1] * (ROW - 1)])}, 400),
    "data booleans": (TENSORS, {"json": tensor(data=[True] * ROW)}, 400),
    "data nulls": (TENSORS, {"json": tensor(data=[None] * ROW)}, 400),
    "data ragged": (TENSORS, {"json": tensor(data=[[[[1, 2]]], [3]])}, 400),
    "data nested otherwise": (TENSORS, {"json": tensor(data=[[[[1] * 32] * 32] * 3])}, 400),
    "data a number": (TENSORS, {"json": tensor(data=5)}, 400),
    "data an object": (TENSORS, {"json": tensor(data={})}, 400),
    "data absent": (TENSORS, {"json": tensor(data=None)}, 400),
    "data twice": (TENSORS, binary(tensor(), bytes(ROW)), 400),
    "buffer size too small": (TENSORS, sized(ROW - 1, bytes(ROW)), 400),
    "buffer size too large": (TENSORS, sized(ROW + 1, bytes(ROW)), 400),
    "buffer size overflow": (TENSORS, sized(2**64 + ROW, bytes(ROW)), 400),
    "buffer size negative": (TENSORS, sized(-1, bytes(ROW)), 400),
    "buffer size a word": (TENSORS, sized("3072", bytes(ROW)), 400),
    "buffer shorter than the shape": (TENSORS, sized(5, bytes(5)), 400),
    "shared memory": (TENSORS, {"json": tensor(data=None, parameters={"shared_memory_region": "x"})}, 400),
    "header length out of range": (TENSORS, raw(GOOD, **{LENGTH: "99999999999"}), 400),
    "header length beyond 64 bits": (TENSORS, raw(GOOD, **{LENGTH: "9" * 5000}), 400),
    "header length negative": (TENSORS, raw(GOOD, **{LENGTH: "-1"}), 400),
    "header length a word": (TENSORS, raw(b"{}", **{LENGTH: "two"}), 400),
    "header length other digits": (TENSORS, raw(b"{}", **{LENGTH: b"\xb2"}), 400),
    "header length inside the JSON": (TENSORS, raw(json.dumps(tensor()).encode(), **{LENGTH: "20"}), 400),
    "JSON recursion": (TENSORS, raw(b"[" * 200_000), 400),
    "JSON recursion in data": (TENSORS, raw(b'{"inputs":[{"data":' + b"[" * 5000 + b"]" * 5000 + b"}]}"), 400),
    "JSON recursion in objects": (TENSORS, raw(b'{"a":' * 100_000), 400),
    "JSON cut off": (TENSORS, raw(json.dumps(tensor()).encode()[:-3]), 400),
    "JSON not UTF-8": (TENSORS, raw(b'{"id": "\xff"}'), 400),
    "JSON a list": (TENSORS, {"json": []}, 400),
    "JSON number of 10000 digits": (TENSORS, raw(b'{"id": ' + b"9" * 10_000 + b"}"), 400),
    "empty body": (TENSORS, raw(b""), 400),
    "output unknown": (TENSORS, {"json": outputs({"name": "nope"})}, 400),
    "output without a name": (TENSORS, {"json": outputs({})}, 400),
    "output name no string": (TENSORS, {"json": outputs({"name": ["logits"]})}, 400),
    "output names duplicate": (TENSORS, {"json": outputs({"name": "logits"}, {"name": "logits"})}, 400),
    "outputs an object": (TENSORS, {"json": {**tensor(), "outputs": {"name": "logits"}}}, 400),
    **{
        f"classification {value}": (
            TENSORS,
            {"json": outputs({"name": "logits", "parameters": {"classification": value}})},
            400,
        )
        for value in (-1, 1.5, "3", True, 2**63)
    },
    "output binary_data a word": (
        TENSORS,
        {"json": outputs({"name": "logits", "parameters": {"binary_data": "yes"}})},
        400,
    ),
    "classification of an attention map": (
        TENSORS,
        {"json": outputs({"name": "attention.layer3.0.conv1", "parameters": {"classification": 3}})},
        400,
    ),
    "attention maps of too many bytes": (
        TENSORS,
        binary(
            {**tensor(data=None, shape=[32, 32, 32, 3]), "outputs": [{"name": name} for name in ATTENTION]},
            bytes(32 * ROW),
        ),
        400,
    ),
    "output to shared memory": (
        TENSORS,
        {"json": outputs({"name": "logits", "parameters": {"shared_memory_region": "x"}})},
        400,
    ),
    "binary_data_output a number": (TENSORS, flagged(binary_data_output=1), 400),
    "timeout negative": (TENSORS, flagged(timeout=-1), 400),
    "parameter an object": (TENSORS, flagged(anything={}), 400),
    "parameters a list": (TENSORS, {"json": {**tensor(), "parameters": []}}, 400),
    "id a number": (TENSORS, {"json": {**tensor(), "id": 7}}, 400),
    "content encoding unknown": (TENSORS, raw(b"x", **{"Content-Encoding": "br"}), 415),
    "content encoding two": (TENSORS, raw(b"x", **{"Content-Encoding": "gzip, gzip"}), 415),
    "gzip that is none": (TENSORS, raw(b"{}", **{"Content-Encoding": "gzip"}), 400),
    "gzip cut off": (TENSORS, raw(gzip.compress(GOOD)[:-4], **{"Content-Encoding": "gzip"}), 400),
    "gzip and more": (TENSORS, raw(gzip.compress(GOOD) + b"x", **{"Content-Encoding": "gzip"}), 400),
    "gzip bomb": (TENSORS, raw(gzip.compress(bytes(50_000_000), 1), **{"Content-Encoding": "gzip"}), 413),
    "deflate bomb": (TENSORS, raw(zlib.compress(bytes(50_000_000), 1), **{"Content-Encoding": "deflate"}), 413),
    "input size limit": (TENSORS, raw(bytes(11_000_000)), 413),
    "many chunks": (TENSORS, {"content": (b"x" for _ in range(20_000))}, 400),
    "unknown model": ("/v2/models/nope/infer", {"json": tensor()}, 404),
    "unknown version": ("/v2/models/aa-cifar100/versions/2/infer", {"json": tensor()}, 404),
    "version a word": ("/v2/models/aa-cifar100/versions/x/infer", {"json": tensor()}, 404),
    "null character": ("/v2/models/aa-cifar100%00/infer", {"json": tensor()}, 404),
    "model above the folder": ("/v2/models/..%2f..%2fetc/infer", {"json": tensor()}, 404),
    "unknown path": ("/v2/nope", {}, 404),
    "wrong method": ("/v2/models/aa-cifar100", {}, 405),
    "repository index of a list": ("/v2/repository/index", {"json": []}, 400),
    "shared memory register": ("/v2/systemsharedmemory/region/x/register", {"json": {}}, 404),
    "timeout header a word": (TENSORS, {"json": tensor(), "headers": {"X-Request-Timeout-Ms": "soon"}}, 422),
}


@pytest.mark.parametrize(("path", "request_", "status"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_request_gets_4xx_and_the_service_lives(
    service: RunningService, path: str, request_: dict, status: int
) -> None:
    try:
        response = service.client.post(path, **request_)
    except httpx.WriteError:
        assert status == 413  # the connection was closed while we were still sending
    else:
        assert_error(response, status)
    assert service.client.get("/v2/health/live").status_code == 200
    assert service.client.post(TENSORS, json=tensor()).status_code == 200
