"""Requests of the Open Inference Protocol, to the shipped model."""

import base64
import json

import httpx

from tests.helpers import EXAMPLES

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
TENSORS = "/v2/models/aa-cifar100/infer"
PICTURES = "/v2/models/aa-cifar100:pictures/infer"
LENGTH = "Inference-Header-Content-Length"
ROW = 32 * 32 * 3  # bytes
ATTENTION = [f"attention.layer3.{block}.conv1" for block in range(3)]


def tensor(**changes: object) -> dict:
    """A request of one grey row in JSON; a change to None leaves the key out."""
    one = {"name": "image", "shape": [1, 32, 32, 3], "datatype": "UINT8", "data": [128] * ROW, **changes}
    return {"inputs": [{key: value for key, value in one.items() if value is not None}]}


def picture(**changes: object) -> dict:
    return tensor(**{"shape": [1], "datatype": "BYTES", "data": [base64.b64encode(JPEG).decode()], **changes})


def outputs(*wanted: object) -> dict:
    return {**tensor(), "outputs": list(wanted)}


def binary(request: dict, tail: bytes, **headers: str) -> dict:
    text = json.dumps(request).encode()
    return {"content": text + tail, "headers": {LENGTH: str(len(text)), **headers}}


def assert_error(response: httpx.Response, status: int) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    assert isinstance(body["error"], str)
    assert body["error"]
    for foreign in (".py", "/work", "numpy", "Traceback", "json.", "zlib", "0x7"):
        assert foreign not in body["error"]
