"""/v2 over a socket: what the unmodified clients in tests/clients cannot send, and every way to get it wrong."""

import base64
import gzip
import io
import json
import struct
import zlib
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.full_service import MODEL, full_service
from tests.helpers import EXAMPLES, RunningService
from tests.service.http.test_bad_input import png_bomb

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
    "gzip bomb": (TENSORS, raw(gzip.compress(bytes(200_000_000), 1), **{"Content-Encoding": "gzip"}), 413),
    "deflate bomb": (TENSORS, raw(zlib.compress(bytes(200_000_000), 1), **{"Content-Encoding": "deflate"}), 413),
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


def assert_error(response: httpx.Response, status: int) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    assert isinstance(body["error"], str)
    assert body["error"]
    for foreign in (".py", "/work", "numpy", "Traceback", "json.", "zlib", "0x7"):
        assert foreign not in body["error"]


def test_a_picture_may_be_the_whole_body(service: RunningService) -> None:
    """curl --data-binary @rocket.jpg -H 'Inference-Header-Content-Length: 0'"""
    response = service.client.post(PICTURES, content=JPEG, headers={LENGTH: "0"})
    length = int(response.headers[LENGTH])
    described = json.loads(response.content[:length])["outputs"]
    assert [output["name"] for output in described] == ["scores", "logits"]
    scores = np.frombuffer(response.content[length : length + 400], "<f4")
    best = service.classify(JPEG).json()["predictions"][0]
    assert (int(scores.argmax()), scores.max()) == (best["class_index"], pytest.approx(best["score"], abs=1e-5))


def test_a_raw_row_is_the_same_as_one_in_json(service: RunningService) -> None:
    response = service.client.post(TENSORS, content=bytes([128]) * ROW, headers={LENGTH: "0"})
    found = np.frombuffer(response.content[int(response.headers[LENGTH]) :], "<f4")
    (expected,) = service.client.post(TENSORS, json=tensor()).json()["outputs"]
    np.testing.assert_allclose(found, expected["data"], atol=1e-5)


def test_nested_flat_and_binary_data_without_a_size_are_the_same(service: RunningService) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    answers = [
        service.client.post(TENSORS, json=tensor(shape=[2, 32, 32, 3], data=pixels.ravel().tolist())),
        service.client.post(TENSORS, json=tensor(shape=[2, 32, 32, 3], data=pixels.tolist())),
        service.client.post(TENSORS, **binary(tensor(shape=[2, 32, 32, 3], data=None), pixels.tobytes())),
    ]
    found = [answer.json()["outputs"][0]["data"] for answer in answers]
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    np.testing.assert_allclose(found[0], found[2], atol=1e-4)


def test_an_outputs_own_wish_for_binary_wins(service: RunningService) -> None:
    request = {
        **picture(),
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "logits", "parameters": {"binary_data": False}}, {"name": "scores"}],
    }
    response = service.client.post(PICTURES, json=request)
    logits, scores = json.loads(response.content[: int(response.headers[LENGTH])])["outputs"]
    assert len(logits["data"]) == 100
    assert scores["parameters"] == {"binary_data_size": 400}
    assert "data" not in scores


def test_an_attention_map_is_an_output_that_comes_only_by_its_name(service: RunningService) -> None:
    expected = np.load(
        io.BytesIO(service.client.post("/explain", content=JPEG, headers={"Accept": "application/x-npy"}).content)
    )
    wanted = [{"name": ATTENTION[2], "parameters": {"binary_data": True}}, {"name": "scores"}, {"name": ATTENTION[2]}]
    response = service.client.post(PICTURES, json={**picture(), "outputs": wanted[:2]})
    length = int(response.headers[LENGTH])
    maps, scores = json.loads(response.content[:length])["outputs"]
    assert (maps["name"], maps["datatype"], maps["shape"]) == (ATTENTION[2], "FP32", [1, 4, 64, 64])
    found = np.frombuffer(response.content[length:], "<f4")
    np.testing.assert_allclose(found, expected.ravel(), atol=1e-6)
    assert len(scores["data"]) == 100
    (in_json,) = service.client.post(PICTURES, json={**picture(), "outputs": wanted[2:]}).json()["outputs"]
    np.testing.assert_allclose(in_json["data"], expected.ravel(), atol=1e-6)
    (by_default,) = service.client.post(TENSORS, json=tensor()).json()["outputs"]
    assert by_default["name"] == "logits"


def test_attention_maps_of_several_rows_are_those_of_each_row_alone(service: RunningService) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)

    def maps(rows: np.ndarray) -> np.ndarray:
        request = {**tensor(shape=list(rows.shape), data=rows.ravel().tolist()), "outputs": [{"name": ATTENTION[0]}]}
        (output,) = service.client.post(TENSORS, json=request).json()["outputs"]
        return np.reshape(output["data"], output["shape"])

    together = maps(pixels)
    assert together.shape == (3, 4, 64, 64)
    np.testing.assert_allclose(together.sum(axis=-1), 1, atol=1e-4)
    for index in range(3):
        np.testing.assert_allclose(together[index], maps(pixels[index : index + 1])[0], atol=1e-5)


def test_more_classes_than_there_are_is_all_of_them(service: RunningService) -> None:
    wanted = {"name": "scores", "parameters": {"classification": 1000}}
    (scores,) = service.client.post(PICTURES, json={**picture(), "outputs": [wanted]}).json()["outputs"]
    assert (scores["datatype"], scores["shape"]) == ("BYTES", [1, 100])
    expected = service.classify(JPEG, top_k=100).json()["predictions"]
    assert scores["data"] == [f"{each['score']:f}:{each['class_index']}:{each['label']}" for each in expected]


@pytest.mark.parametrize("given", ["", "7", "ü\ud800", "x" * 5000])
def test_the_id_is_echoed(service: RunningService, given: str) -> None:
    content = json.dumps({**tensor(), "id": given})
    assert json.loads(service.client.post(TENSORS, content=content).content)["id"] == given


def test_no_id_no_echo(service: RunningService) -> None:
    assert "id" not in service.client.post(TENSORS, json=tensor()).json()


def test_answers_are_compressed_only_if_the_client_accepts_it(service: RunningService) -> None:
    def encoding(accepted: str) -> str | None:
        response = service.client.post(TENSORS, json=tensor(), headers={"Accept-Encoding": accepted})
        assert len(response.json()["outputs"][0]["data"]) == 100
        return response.headers.get("content-encoding")

    assert encoding("identity") is None
    assert encoding("gzip;q=0, br") is None
    assert encoding("deflate") == "deflate"
    assert encoding("br, gzip;q=0.5") == "gzip"


def test_overload_is_429_with_the_protocols_error(tmp_path: Path) -> None:
    with full_service(tmp_path) as service:
        for name in (MODEL, f"{MODEL}:pictures"):
            response = service.client.post(f"/v2/models/{name}/infer", json=tensor())
            assert_error(response, 429)
            assert int(response.headers["retry-after"]) >= 1
        assert service.metric("aaserve_requests_total", endpoint="/v2/models/{model}/infer", code="429") == 2


def test_openapi_lists_the_protocol(service: RunningService) -> None:
    paths = service.client.get("/openapi.json").json()["paths"]
    operation = paths["/v2/models/{model}/versions/{version}/infer"]["post"]
    assert {"application/json", "application/octet-stream"} <= set(operation["requestBody"]["content"])
    assert {"200", "400", "404", "413", "415", "422", "429", "500", "503", "504"} <= set(operation["responses"])
    assert operation["responses"]["429"]["content"]["application/json"]["schema"]["$ref"].endswith("/ProtocolError")
