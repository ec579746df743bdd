"""Valid HTTP requests with hostile content."""

import gzip
import json
import zlib

import pytest

from tests.helpers import EXAMPLES, RunningService

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
JSON = {"Content-Type": "application/json"}
INFER = "/v2/models/aa-cifar100/infer"
DEEP = b"[" * 100_000
MANY = b'{"image": [' + b"[]," * 1_000_000 + b"0]}"

PATHS = [
    "/v2/models/..%2f..%2fetc%2fpasswd",
    "/v2/models/../../etc/passwd",
    "/v2/models/%00",
    "/v2/models/aa-cifar100%00",
    "/v2/models/aa-cifar100/versions/%31%00",
    "/v2/models/%ff%fe",
    "/v2/models/" + "a" * 8000,
    "/models/..%2f",
    "/models/%2e%2e",
    "/models/aa-cifar100/",
    "/page/examples/..%2findex.html",
    "/page/examples/%2e%2e%2f%2e%2e%2fsettings.py",
    "//etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/models/aa-cifar100%0d%0aSet-Cookie:%20a=b",
]


@pytest.mark.parametrize("path", PATHS, ids=[path[:40] for path in PATHS])
def test_tricks_in_paths_find_nothing(service: RunningService, path: str) -> None:
    answer = service.client.get(path)
    assert answer.status_code == 404
    assert "root:" not in answer.text
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "name", ["..", "../..", "a/b", "a\0", "a\n", "ａａ-cifar100", "aa-cifar100/1", "", " ", "x" * 5000]
)
def test_tricks_in_model_names_find_nothing(service: RunningService, name: str) -> None:
    answer = service.classify(JPEG, model=name)
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")
    answer = service.classify(JPEG, model="aa-cifar100", version=name)
    assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("path", ["/classify", "/classify/batch", INFER, "/v2/repository/index"])
@pytest.mark.parametrize("body", [DEEP, b'{"a":' * 100_000, MANY, b'{"image": 1e999999}', b"9" * 100_000, b"\xff\xfe["])
def test_json_that_is_deep_or_much_is_refused(service: RunningService, path: str, body: bytes) -> None:
    answer = service.client.post(path, content=body, headers=JSON)
    assert answer.status_code in (400, 413) or (path, body[:1]) == ("/v2/repository/index", b"{")


def test_a_key_twice_with_different_values_is_refused(service: RunningService) -> None:
    body = b'{"image": "no base64 !", "image": ' + json.dumps("data:;base64,").encode() + b"}"
    answer = service.client.post("/classify", content=body, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


def test_a_parameter_twice_is_one_or_an_error(service: RunningService) -> None:
    for query in ("top_k=1&top_k=2", "top_k=x&top_k=1", "model=nope&model=aa-cifar100"):
        answer = service.client.post(f"/classify?{query}", content=JPEG, headers={"Content-Type": "image/jpeg"})
        assert answer.status_code in (200, 404, 422)


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
@pytest.mark.parametrize("times", [1, 2])
def test_compressed_bombs_are_refused(service: RunningService, encoding: str, compress, times: int) -> None:  # type: ignore[no-untyped-def]
    bomb = bytes(500_000_000) if times == 1 else bytes(50_000_000)
    for _ in range(times):
        bomb = compress(bomb)
    headers = {"Content-Encoding": encoding, "Inference-Header-Content-Length": "0"}
    before = service.metric("process_resident_memory_bytes")
    answer = service.client.post(INFER, content=bomb, headers=headers)
    assert answer.status_code == (413 if times == 1 else 400)
    assert service.metric("process_resident_memory_bytes") - before < 100_000_000


def test_a_compressed_bomb_is_refused_where_pictures_are_sent(service: RunningService) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    headers = {"Content-Type": "image/png", "Content-Encoding": "gzip"}
    answer = service.client.post("/classify", content=bomb, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("length", ["99999999999", "-1", "1e3", "", "0x5", "１", "9" * 5000])
def test_header_lengths_out_of_range(service: RunningService, length: str) -> None:
    headers = {b"Inference-Header-Content-Length": length.encode()}
    answer = service.client.post(INFER, content=b"{}", headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]


def test_a_form_of_a_thousand_parts_is_refused(service: RunningService) -> None:
    parts = [("image", (f"{number}", b"x")) for number in range(1000)]
    assert service.client.post("/classify", files=parts).status_code == 400
    fields = {f"f{number}": "x" for number in range(1000)}
    assert service.client.post("/classify", data=fields, files={"image": JPEG}).status_code == 400
    assert service.client.post("/classify/batch", files=parts).status_code in (400, 413)
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n' + b"A: b\r\n" * 50_000
    answer = service.client.post(
        "/classify", content=head + b"\r\n\r\nx\r\n--x--", headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert answer.status_code == 400


def test_no_redirect_names_the_host_of_the_clients_choice(service: RunningService) -> None:
    answer = service.client.post("/classify/", headers={"Host": "evil.example"})
    assert answer.status_code == 404
    assert "location" not in answer.headers


def test_json_of_too_many_values_is_not_even_parsed(service: RunningService) -> None:
    for path, key, value in (("/classify", "image", '""'), ("/classify/batch", "images", '[""]')):
        body = f'{{"{key}": {value}, "x": [{"[]," * 200_000}0]}}'
        answer = service.client.post(path, content=body, headers=JSON)
        assert (answer.status_code, answer.json().get("code")) == (400, "invalid_request")
        assert "values" in answer.json()["detail"]
