"""Bodies with a Content-Encoding: the same at every address, and a small body that would become a large one."""

import asyncio
import base64
import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable

import pytest

from aaserve.service.errors import BodyTooLarge, InvalidRequest
from aaserve.service.http.body.compression import coding_of, decompressed
from tests.helpers import EXAMPLES, RunningService

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
TEXT = base64.b64encode(JPEG).decode()
RAW, JSON = "image/jpeg", "application/json"
MULTIPART = "multipart/form-data; boundary=x"
PICTURES = "/v2/models/aa-cifar100:pictures/infer"
TENSOR = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [TEXT]}]}


def form(field: str) -> bytes:
    head = f'--x\r\nContent-Disposition: form-data; name="{field}"; filename="a"\r\n\r\n'
    return head.encode() + JPEG + b"\r\n--x--\r\n"


BODIES = {
    "a raw body": ("/classify", RAW, JPEG),
    "a form": ("/classify", MULTIPART, form("image")),
    "JSON": ("/classify", JSON, json.dumps({"image": TEXT}).encode()),
    "a batch as a form": ("/classify/batch", MULTIPART, form("image")),
    "a batch in JSON": ("/classify/batch", JSON, json.dumps({"images": [TEXT]}).encode()),
    "explain": ("/explain", RAW, JPEG),
    "TorchServe's raw body": ("/predictions/aa-cifar100", RAW, JPEG),
    "TorchServe's form": ("/predictions/aa-cifar100", MULTIPART, form("data")),
    "the protocol": (PICTURES, JSON, json.dumps(TENSOR).encode()),
    "the protocol's index": ("/v2/repository/index", JSON, b'{"ready": true}'),
}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


def inflated(body: bytes, coding: str, *, max_bytes: int, chunk: int = 100) -> bytes:
    async def joined() -> bytes:
        return b"".join([piece async for piece in decompressed(chunks(), coding, max_bytes=max_bytes)])

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), chunk):
            yield body[start : start + chunk]

    return asyncio.run(joined())


@pytest.mark.parametrize("coding", COMPRESS)
def test_a_bomb_never_takes_more_memory_than_the_limit(coding: str) -> None:
    bomb = COMPRESS[coding](bytes(50_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            inflated(bomb, coding, max_bytes=1_000_000, chunk=65_536)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("chunk", [1, 7, 10_000_000])
@pytest.mark.parametrize("size", [0, 1, 262_143, 262_144, 262_145, 1_000_000])
def test_a_body_of_exactly_the_limit_is_taken(size: int, chunk: int) -> None:
    assert inflated(gzip.compress(b"x" * size), "gzip", max_bytes=size, chunk=chunk) == b"x" * size


@pytest.mark.parametrize(
    ("damage", "words"), [(lambda body: body[:-3], "cut off"), (lambda body: body + b"x", "follows")]
)
@pytest.mark.parametrize("chunk", [1, 10_000])
def test_data_that_are_not_whole_are_refused(damage: Callable[[bytes], bytes], words: str, chunk: int) -> None:
    with pytest.raises(InvalidRequest, match=words):
        inflated(damage(gzip.compress(b"x" * 100)), "gzip", max_bytes=1000, chunk=chunk)


@pytest.mark.parametrize(
    ("header", "coding"),
    [("", None), ("identity", None), ("GZIP", "gzip"), ("x-gzip", "x-gzip"), ("identity, deflate", "deflate")],
)
def test_the_header_names_the_coding(header: str, coding: str | None) -> None:
    assert coding_of(header) == coding


@pytest.mark.parametrize(("path", "media_type", "body"), BODIES.values(), ids=BODIES)
def test_a_compressed_body_gets_the_answer_of_the_plain_one(
    service: RunningService, path: str, media_type: str, body: bytes
) -> None:
    plain = service.client.post(path, content=body, headers={"Content-Type": media_type})
    assert plain.status_code == 200
    for encoding, compress in COMPRESS.items():
        headers = {"Content-Type": media_type, "Content-Encoding": encoding}
        assert service.client.post(path, content=compress(body), headers=headers).text == plain.text


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip"])
@pytest.mark.parametrize(("path", "media_type", "body"), BODIES.values(), ids=BODIES)
def test_an_unknown_encoding_is_named_with_those_that_are_known(
    service: RunningService, path: str, media_type: str, body: bytes, encoding: str
) -> None:
    headers = {"Content-Type": media_type, "Content-Encoding": encoding}
    answer = service.client.post(path, content=body, headers=headers)
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "gzip, deflate")
    assert f"Content-Encoding '{encoding}' is not accepted; send gzip, deflate or none" in answer.text


def test_two_headers_are_two_codings(service: RunningService) -> None:
    headers = [("Content-Type", RAW), ("Content-Encoding", "gzip"), ("Content-Encoding", "gzip")]
    assert service.client.post("/classify", content=gzip.compress(JPEG), headers=headers).status_code == 415


def test_a_body_that_is_not_what_its_encoding_says_is_refused(service: RunningService) -> None:
    answer = service.client.post("/classify", content=JPEG, headers={"Content-Type": RAW, "Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["detail"]) == (
        400,
        "the body is not gzip data, as Content-Encoding says",
    )
