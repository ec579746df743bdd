"""Bad input gets one of the documented errors, in our own words, and the service lives on."""

import base64
import re
import socket
import struct
import zlib

import httpx
import pytest
from PIL import Image

from tests.helpers import BAD_IMAGES, EXAMPLES, RunningService, encode, noise, running_service

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
RAW = {"Content-Type": "application/octet-stream"}
JSON = {"Content-Type": "application/json"}


def png_bomb(side: int) -> bytes:
    """A PNG that claims side x side grey pixels in some hundred bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def multipart(*parts: tuple[str, bytes]) -> dict:
    return {"files": [(field, (f"{field}.jpg", content, "image/jpeg")) for field, content in parts]}


def float_tiff() -> bytes:
    return encode(Image.new("F", (8, 8), 0.5), "TIFF")


def half_a_gif() -> bytes:
    return encode(noise(64, 64), "GIF")[:40]


BAD_REQUESTS = {
    "empty body": ({"content": b"", "headers": RAW}, 400, "invalid_image"),
    "text file named .jpg": (multipart(("image", b"I am not a picture.\n")), 415, "unsupported_media_type"),
    "truncated JPEG": ({"content": JPEG[:5000], "headers": RAW}, 400, "invalid_image"),
    "truncated PNG": ({"content": encode(noise(64, 64), "PNG")[:3000], "headers": RAW}, 400, "invalid_image"),
    "truncated GIF": ({"content": half_a_gif(), "headers": RAW}, 400, "invalid_image"),
    "JPEG header alone": ({"content": b"\xff\xd8\xff", "headers": RAW}, 400, "invalid_image"),
    "floating-point TIFF": ({"content": float_tiff(), "headers": RAW}, 400, "invalid_image"),
    "PNG bomb": ({"content": png_bomb(30_000), "headers": RAW}, 413, "image_too_large"),
    "PNG over the limit": ({"content": png_bomb(7_100), "headers": RAW}, 413, "image_too_large"),
    "SVG": ({"content": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "headers": RAW}, 415, "unsupported_media_type"),
    "0-byte part": (multipart(("image", b"")), 400, "invalid_image"),
    "missing field": (multipart(("picture", JPEG)), 400, "invalid_request"),
    "two images": (multipart(("image", JPEG), ("image", JPEG)), 400, "invalid_request"),
    "a hundred images": (multipart(*[("image", b"x")] * 100), 400, "invalid_request"),
    "image as a text field": (
        {"data": {"image": "x"}, "files": {"other": b"x"}},
        400,
        "invalid_request",
    ),
    "no boundary": ({"content": JPEG, "headers": {"Content-Type": "multipart/form-data"}}, 400, "invalid_request"),
    "broken multipart": (
        {"content": b"--x\r\nnonsense", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        400,
        "invalid_request",
    ),
    "wrong content type": ({"content": JPEG, "headers": {"Content-Type": "text/plain"}}, 415, "unsupported_media_type"),
    "curl without a content type": (
        {"content": JPEG, "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
        415,
        "unsupported_media_type",
    ),
    "JSON that is none": ({"content": b"{", "headers": JSON}, 400, "invalid_request"),
    "JSON too deep": ({"content": b"[" * 200_000, "headers": JSON}, 400, "invalid_request"),
    "JSON without image": ({"json": {"picture": ""}}, 400, "invalid_request"),
    "JSON image of another type": ({"json": {"image": 5}}, 400, "invalid_request"),
    "JSON list": ({"json": []}, 400, "invalid_request"),
    "JSON not UTF-8": ({"content": b'{"image": "\xff"}', "headers": JSON}, 400, "invalid_request"),
    "not base64": ({"json": {"image": "*" * 40}}, 400, "invalid_request"),
    "base64 with other letters": ({"json": {"image": "ÄÖÜ"}}, 400, "invalid_request"),
    "base64 of text": ({"json": {"image": base64.b64encode(b"text").decode()}}, 415, "unsupported_media_type"),
    "data URI that is not base64": ({"json": {"image": "data:image/png,abc"}}, 400, "invalid_request"),
    "top_k zero": ({"content": JPEG, "headers": RAW, "params": {"top_k": "0"}}, 422, "invalid_parameter"),
    "top_k negative": ({"content": JPEG, "headers": RAW, "params": {"top_k": "-1"}}, 422, "invalid_parameter"),
    "top_k a word": ({"content": JPEG, "headers": RAW, "params": {"top_k": "abc"}}, 422, "invalid_parameter"),
    "top_k too large": ({"content": JPEG, "headers": RAW, "params": {"top_k": "1000"}}, 422, "invalid_parameter"),
    "top_k enormous": ({"content": JPEG, "headers": RAW, "params": {"top_k": "9" * 5000}}, 422, "invalid_parameter"),
    "timeout a word": (
        {"content": JPEG, "headers": {**RAW, "X-Request-Timeout-Ms": "soon"}},
        422,
        "invalid_parameter",
    ),
}


def assert_problem(response: httpx.Response, status: int, code: str) -> None:
    body = response.json()
    assert (response.status_code, body["code"]) == (status, code), body
    assert response.headers["content-type"] == "application/problem+json"
    assert body["status"] == status
    assert body["title"]
    assert body["request_id"] == response.headers["x-request-id"]
    foreign = re.compile(r"\b0x[0-9a-f]{6}|/(usr|home|root|work|tmp)/|\.py|<_io|PIL|Traceback|pydantic|Error\(")
    assert not foreign.search(response.text), response.text


@pytest.mark.parametrize(("request_", "status", "code"), BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_bad_input_gets_its_documented_error(service: RunningService, request_: dict, status: int, code: str) -> None:
    assert_problem(service.client.post("/classify", **request_), status, code)
    assert service.classify(JPEG).status_code == 200


def test_every_answer_to_an_unknown_path_or_method_is_a_problem(service: RunningService) -> None:
    assert_problem(service.client.get("/nope"), 404, "not_found")
    assert_problem(service.client.get("/classify"), 405, "method_not_allowed")
    assert service.client.get("/classify").headers["allow"] == "OPTIONS, POST"


def test_a_body_that_declares_too_much_is_refused_before_it_is_sent(service: RunningService) -> None:
    """Only the head is sent: an answer shows that nothing was waited for."""
    host = service.client.base_url.host, service.client.base_url.port
    with socket.create_connection(host, timeout=60) as connection:
        head = "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 99999999999\r\n\r\n"
        connection.sendall(head.encode())
        answer = connection.makefile("rb").read().decode()
    assert answer.startswith("HTTP/1.1 413 ")
    assert '"code":"body_too_large"' in answer


def test_a_body_of_unknown_length_is_cut_off_at_the_limit() -> None:
    sent = 0

    def endless():  # type: ignore[no-untyped-def]
        nonlocal sent
        while sent < 2**30:
            sent += 2**16
            yield bytes(2**16)

    with running_service("--max-body-bytes", "1000000") as service:
        try:
            response = service.client.post("/classify", content=endless(), headers=RAW)
            assert_problem(response, 413, "body_too_large")
        except httpx.WriteError:
            pass  # the connection was closed while we were still sending
        assert sent < 2**27  # what the socket's buffers took, far from all of it
        within = service.client.post("/classify", files={"image": JPEG})
        assert within.status_code == 200
        assert service.metric("aaserve_rejected_total", reason="body_too_large") == 1


@pytest.mark.skipif(not BAD_IMAGES.is_dir(), reason="the data set bad_images is not here")
def test_the_odd_and_broken_files_of_others_get_200_or_a_documented_4xx(service: RunningService) -> None:
    paths = sorted(path for path in BAD_IMAGES.iterdir() if path.is_file())
    assert len(paths) > 200
    decoded = 0
    for path in paths:
        response = service.classify(path.read_bytes())
        if response.status_code == 200:
            decoded += 1
        else:
            status = response.status_code
            assert (status, response.json()["code"]) in {
                (400, "invalid_image"),
                (413, "image_too_large"),
                (415, "unsupported_media_type"),
            }, path.name
            assert_problem(response, status, response.json()["code"])
    assert decoded > 50
