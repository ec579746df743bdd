"""Bodies leave memory with their request, answered or refused: nothing waits for the garbage collector."""

import base64
import gc
import gzip
import http.client
import json
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
from fastapi import FastAPI
from PIL import Image

from aaserve.service.http.app import create_app
from aaserve.service.settings import Settings
from tests.detector_bundle import write_detector
from tests.helpers import REPOSITORY, encode, noise, served, wait_until

REPEATED = 3
V2, V2_PICTURES = "/v2/models/aa-cifar100/infer", "/v2/models/aa-cifar100:pictures/infer"
PNG = encode(noise(8, 8), "PNG") + bytes(300_000)  # what follows a picture is ignored
BASE64 = base64.b64encode(PNG)
NO_BASE64 = b"A" * 300_000 + "😀".encode()
NO_PICTURE = b"A" * 300_000
ROWS, ROW = 100, 32 * 32 * 3
NUMBERS = b",".join([b"123    "] * (16 * ROW))


class Sent(NamedTuple):
    path: str
    status: int
    body: bytes
    headers: dict[str, str]


def json_body(path: str, status: int, body: bytes, **headers: str) -> Sent:
    return Sent(path, status, body, {"Content-Type": "application/json", **headers})


def form(path: str, status: int, *parts: bytes, name: str = "image", end: bytes = b"\r\n--B--\r\n") -> Sent:
    """Parts that are files, except for those that bring their own headers."""
    head = f'--B\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\n\r\n'.encode()
    content = b"\r\n".join(part if part.startswith(b"--B\r\n") else head + part for part in parts)
    return Sent(path, status, content + end, {"Content-Type": "multipart/form-data; boundary=B"})


def field(name: str, value: bytes) -> bytes:
    return f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value


def raw(path: str, status: int, body: bytes, media_type: str = "image/png", **headers: str) -> Sent:
    return Sent(path, status, body, {"Content-Type": media_type, **headers})


def tensor(status: int, *, shape: list[int] | None = None, data: bytes = NUMBERS, name: str = "image") -> Sent:
    head = json.dumps({"name": name, "shape": shape or [16, 32, 32, 3], "datatype": "UINT8"})[:-1].encode()
    return json_body(V2, status, b'{"inputs":[%b,"data":[%b]}]}' % (head, data))


def texts(status: int, *data: bytes) -> Sent:
    quoted = b",".join(b'"' + text + b'"' for text in data)
    head = b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[%d],"data":[%b]}]}' % (len(data), quoted)
    return json_body(V2_PICTURES, status, head)


def binary(path: str, status: int, data: bytes, datatype: str, shape: list[int]) -> Sent:
    described = {"name": "image", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [described]}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return Sent(path, status, head + data, headers)


def prefixed(picture: bytes) -> bytes:
    """As the Open Inference Protocol has it in binary data."""
    return len(picture).to_bytes(4, "little") + picture


SENT = {
    "json": json_body("/classify", 200, b'{"image":"%b"}' % BASE64),
    "json, no base64": json_body("/classify", 400, b'{"image":"%b"}' % NO_BASE64),
    "json, no picture": json_body("/classify", 415, b'{"image":"%b"}' % NO_PICTURE),
    "json, malformed": json_body("/classify", 400, b'{"image":"%b",}' % BASE64),
    "json, a name twice": json_body("/classify", 400, b'{"image":"%b","image":"%b"}' % (BASE64, NO_PICTURE)),
    "json, an unknown field": json_body("/classify", 422, b'{"image":"%b","x":1}' % BASE64),
    "json, another model": json_body("/classify", 404, b'{"image":"%b","model":"x"}' % BASE64),
    "json, late": json_body("/classify", 504, b'{"image":"%b"}' % BASE64, **{"X-Request-Timeout-Ms": "1"}),
    "json batch": json_body("/classify/batch", 200, b'{"images":["%b","%b","%b"]}' % (BASE64, NO_BASE64, NO_PICTURE)),
    "json batch, too many": json_body("/classify/batch", 413, b'{"images":["%b"%b]}' % (BASE64, b',""' * ROWS)),
    "form": form("/classify", 200, PNG),
    "form, no picture": form("/classify", 415, NO_PICTURE),
    "form, text": form("/classify", 400, field("image", NO_PICTURE)),
    "form, another field": form("/classify", 422, PNG, field("x", b"y")),
    "form, cut off": form("/classify", 400, PNG, end=b""),
    "form batch": form("/classify/batch", 200, PNG, NO_PICTURE),
    "raw": raw("/classify", 200, PNG),
    "raw, no picture": raw("/classify", 415, NO_PICTURE),
    "raw, cut off": raw("/classify", 400, PNG[:100] + NO_PICTURE),
    "raw, too many pixels": raw("/classify", 413, encode(Image.new("1", (8000, 8000)), "PNG") + NO_PICTURE),
    "raw, too large": raw("/classify", 413, NO_PICTURE * 8),
    "raw, compressed": raw("/classify", 200, gzip.compress(PNG, 0), **{"Content-Encoding": "gzip"}),
    "raw, not compressed": raw("/classify", 400, PNG, **{"Content-Encoding": "gzip"}),
    "raw, a bad parameter": raw("/classify?top_k=0", 422, PNG),
    "tensor": tensor(200),
    "tensor, malformed": tensor(400, data=NUMBERS.replace(b"123 ", b"1.2.3 ", 1)),
    "tensor, numbers too large": tensor(400, data=NUMBERS.replace(b"123 ", b"300 ", 1)),
    "tensor, another shape": tensor(400, shape=[15, 32, 32, 3]),
    "pictures of a tensor": texts(200, BASE64, BASE64),
    "pictures of a tensor, one bad": texts(415, BASE64, NO_PICTURE),
    "binary tensor": binary(V2, 200, bytes(ROWS * ROW), "UINT8", [ROWS, 32, 32, 3]),
    "binary tensor, too short": binary(V2, 400, bytes(ROWS * ROW - 1), "UINT8", [ROWS, 32, 32, 3]),
    "binary pictures": binary(V2_PICTURES, 200, prefixed(PNG), "BYTES", [1]),
    "binary pictures, one bad": binary(V2_PICTURES, 415, prefixed(PNG) + prefixed(NO_PICTURE), "BYTES", [2]),
    "TorchServe": raw("/predictions/aa-cifar100", 200, PNG),
    "TorchServe, form": form("/predictions/aa-cifar100", 200, PNG, name="data"),
    "TorchServe, no picture": raw("/predictions/aa-cifar100", 415, NO_PICTURE),
    "explanation": raw("/explain", 200, PNG),
    "explanation, json": json_body("/explain", 200, b'{"image":"%b"}' % BASE64),
    "nowhere": raw("/nowhere", 404, PNG),
}


DETECTED = {
    "detection": raw("/detect", 200, PNG),
    "detection, json": json_body("/detect", 200, b'{"image":"%b","score_threshold":0.1}' % BASE64),
    "detection, drawn": raw("/detect", 200, PNG, Accept="image/png"),
    "detection batch": form("/detect/batch", 200, PNG, NO_PICTURE),
    "detection by TorchServe": raw("/predictions/colours", 200, PNG),
    "detection, pictures of a tensor": texts(200, BASE64, BASE64)._replace(path="/v2/models/colours:pictures/infer"),
    "detection, another task": json_body("/classify", 422, b'{"image":"%b"}' % BASE64),
}


class Service(NamedTuple):
    app: FastAPI
    port: int

    def post(self, sent: Sent) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", sent.path, sent.body, sent.headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        assert answer.status == sent.status, text

    def leave(self, sent: Sent, behind: bytes = b"") -> None:
        """Send all, and what is `behind` it, and close without reading the answer."""
        headers = "".join(f"{name}: {value}\r\n" for name, value in sent.headers.items())
        head = f"POST {sent.path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {len(sent.body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(head.encode() + sent.body + behind)

    def idle(self) -> bool:
        return not self.app.state.metrics.being_answered


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    app = create_app(
        Settings(repository=REPOSITORY, max_queue_size=ROWS, max_batch_items=ROWS, max_body_bytes=2_000_000)
    )
    with served(app) as (client, _):
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        yield Service(app, client.base_url.port)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    repository = tmp_path_factory.mktemp("detector")
    write_detector(repository)
    app = create_app(Settings(repository=repository))
    with served(app) as (client, _):
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        yield Service(app, client.base_url.port)


@contextmanager
def collector_off() -> Iterator[Callable[[], int]]:
    """Memory in bytes, as a function, while no garbage collector runs; only what Python and NumPy allocate now."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        gc.enable()


def assert_nothing_is_kept(service: Service, send: Callable[[Sent], None], sent: Sent, behind: int = 0) -> None:
    """Of REPEATED requests, each with `behind` bytes after it, less is left than one of them has."""
    size = len(sent.body) + behind
    service.post(sent)  # what the first request of its kind loads
    send(sent)
    wait_until(service.idle)
    with collector_off() as memory:
        before = memory()
        for _ in range(REPEATED):
            send(sent)
        end = time.monotonic() + 60
        while not service.idle() or memory() - before > size:
            assert time.monotonic() < end, f"{memory() - before} bytes are left of {REPEATED} x {size}"
            time.sleep(0.01)


@pytest.mark.parametrize("name", SENT)
def test_no_body_is_kept(service: Service, name: str) -> None:
    assert_nothing_is_kept(service, service.post, SENT[name])


@pytest.mark.parametrize("name", DETECTED)
def test_no_body_is_kept_of_detections(detector: Service, name: str) -> None:
    assert_nothing_is_kept(detector, detector.post, DETECTED[name])


@pytest.mark.parametrize("name", ["detection", "detection, drawn", "detection batch"])
def test_no_body_is_kept_of_a_client_who_leaves_a_detection(detector: Service, name: str) -> None:
    assert_nothing_is_kept(detector, detector.leave, DETECTED[name])


def test_no_body_is_kept_that_the_queue_has_no_room_for(service: Service) -> None:
    admission = service.app.state.lifecycle.repository.predictor(None, None).admission
    with admission.admit(rows=ROWS - 1, timeout=60):
        assert_nothing_is_kept(service, service.post, SENT["json batch"]._replace(status=429))


@pytest.mark.parametrize("name", ["json", "json batch", "form", "raw", "tensor", "pictures of a tensor", "explanation"])
def test_no_body_is_kept_of_a_client_who_leaves(service: Service, name: str) -> None:
    assert_nothing_is_kept(service, service.leave, SENT[name])


def test_connections_that_are_kept_keep_no_body(service: Service) -> None:
    connections = [http.client.HTTPConnection("127.0.0.1", service.port, timeout=60) for _ in range(20)]
    with collector_off() as memory:
        before = memory()
        for connection in connections:
            connection.request("POST", "/nowhere", b"A" * 200_000)
            assert connection.getresponse().read()
        assert memory() - before < 10 * 200_000
    for connection in connections:
        connection.close()


def test_connections_that_are_lost_keep_nothing_that_came_behind_a_request(service: Service) -> None:
    behind = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n" * 5000
    assert_nothing_is_kept(
        service, lambda sent: service.leave(sent, behind), raw("/classify", 200, PNG[:1000]), len(behind)
    )
