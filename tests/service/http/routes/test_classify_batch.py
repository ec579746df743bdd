"""POST /classify/batch over a socket."""

import base64
import concurrent.futures
import socket

import httpx
import pytest

from tests.helpers import EXAMPLES, RunningService, held_service, wait_until

PICTURES = [path.read_bytes() for path in sorted(EXAMPLES.glob("*.jpg"))]


def classify_batch(service: RunningService, *images: bytes, **params: object) -> httpx.Response:
    return service.client.post("/classify/batch", params=params, files=[("image", image) for image in images])


def as_json(*images: bytes) -> dict:
    return {"json": {"images": [base64.b64encode(image).decode() for image in images]}}


def test_each_picture_has_the_answer_of_classify_in_order(service: RunningService) -> None:
    alone = [service.classify(image, top_k=3).json() for image in PICTURES]
    for response in (
        classify_batch(service, *PICTURES, top_k=3),
        service.client.post("/classify/batch", params={"top_k": 3}, **as_json(*PICTURES)),
    ):
        answer = response.json()
        assert response.status_code == 200
        assert (answer["model"], answer["version"]) == ("aa-cifar100", "1")
        for result, expected in zip(answer["results"], alone, strict=True):
            assert [score["label"] for score in result["predictions"]] == [
                score["label"] for score in expected["predictions"]
            ]
            for found, wanted in zip(result["predictions"], expected["predictions"], strict=True):
                assert found["score"] == pytest.approx(wanted["score"], abs=1e-4)
    assert "inference;dur=" in response.headers["server-timing"]


def test_bad_pictures_fail_by_themselves_in_their_place(service: RunningService) -> None:
    before = service.metric("aaserve_rejected_total", reason="invalid_image")
    response = classify_batch(service, PICTURES[0], b"", b"text", PICTURES[1], PICTURES[2][:999])
    results = response.json()["results"]
    assert [result.get("problem", {}).get("code") for result in results] == [
        None,
        "invalid_image",
        "unsupported_media_type",
        None,
        "invalid_image",
    ]
    assert [result["problem"]["status"] for result in results if "problem" in result] == [400, 415, 400]
    assert results[1]["problem"]["request_id"] == response.headers["x-request-id"]
    assert [sorted(result) for result in results].count(["predictions"]) == 2
    assert service.metric("aaserve_rejected_total", reason="invalid_image") == before + 2


def test_an_item_that_is_not_base64_fails_by_itself(service: RunningService) -> None:
    good = base64.b64encode(PICTURES[0]).decode()
    images = [good, "*", 5, f"data:image/jpeg;base64,{good}", "data:image/png,abc"]
    results = service.client.post("/classify/batch", json={"images": images}).json()["results"]
    codes = [result.get("problem", {}).get("code") for result in results]
    assert codes == [None, "invalid_request", "invalid_request", None, "invalid_request"]


def test_a_part_that_is_text_fails_by_itself(service: RunningService) -> None:
    response = service.client.post("/classify/batch", data={"image": "text"}, files=[("image", PICTURES[0])])
    codes = {result.get("problem", {}).get("code") for result in response.json()["results"]}
    assert codes == {None, "invalid_request"}


BAD_REQUESTS = {
    "no images": ({"json": {"images": []}}, 400, "invalid_request"),
    "no list": ({"json": {"images": "x"}}, 400, "invalid_request"),
    "no parts": ({"files": [("picture", b"x")]}, 400, "invalid_request"),
    "not JSON": ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "invalid_request"),
    "raw": ({"content": PICTURES[0], "headers": {"Content-Type": "image/jpeg"}}, 415, "unsupported_media_type"),
    "too many parts": ({"files": [("image", b"x")] * 33}, 413, "too_many_images"),
    "far too many parts": ({"files": [("image", b"x")] * 99}, 413, "too_many_images"),
    "too many in JSON": ({"json": {"images": ["eA=="] * 33}}, 413, "too_many_images"),
    "top_k": ({"json": {"images": ["eA=="]}, "params": {"top_k": 101}}, 422, "invalid_parameter"),
    "model": ({"json": {"images": ["eA=="]}, "params": {"model": "other"}}, 404, "model_not_found"),
    "body": ({"content": bytes(11 * 2**20), "headers": {"Content-Type": "application/json"}}, 413, "body_too_large"),
}


@pytest.mark.parametrize(("request_", "status", "code"), BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_a_bad_request_fails_as_a_whole(service: RunningService, request_: dict, status: int, code: str) -> None:
    response = service.client.post("/classify/batch", **request_)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"


def test_as_many_as_the_limit_are_answered(service: RunningService) -> None:
    results = classify_batch(service, *[PICTURES[i % len(PICTURES)] for i in range(32)]).json()["results"]
    assert len(results) == 32
    assert all("predictions" in result for result in results)


def test_pictures_count_against_the_queue_and_are_refused_all_or_none() -> None:
    options = ("--max-queue-size", "4", "--max-batch-size", "4")
    with held_service(*options) as held, concurrent.futures.ThreadPoolExecutor() as threads:
        waiting = threads.submit(classify_batch, held, *PICTURES[:3])
        wait_until(lambda: held.metric("aaserve_queue_depth") == 3)
        refused = classify_batch(held, *PICTURES[:2])
        assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        assert held.metric("aaserve_queue_depth") == 3
        assert classify_batch(held, PICTURES[0]).status_code == 200  # with the three, a full batch
        assert len(waiting.result().json()["results"]) == 3
        assert classify_batch(held, *PICTURES[:4]).status_code == 200


def test_one_deadline_for_all_pictures() -> None:
    with held_service() as held:
        response = held.client.post(
            "/classify/batch",
            files=[("image", image) for image in PICTURES],
            headers={"X-Request-Timeout-Ms": "100"},
        )
        assert {result["problem"]["code"] for result in response.json()["results"]} == {"deadline_exceeded"}
        assert held.metric("aaserve_queue_depth") == 0


def test_a_client_who_leaves_ends_the_work_on_all_its_pictures() -> None:
    with held_service() as held:
        body = str(as_json(*PICTURES)["json"]).replace("'", '"').encode()
        head = (
            "POST /classify/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection((held.client.base_url.host, held.client.base_url.port)) as leaver:
            leaver.sendall(head.encode() + body)
            wait_until(lambda: held.metric("aaserve_queue_depth") == len(PICTURES))
        wait_until(lambda: held.metric("aaserve_rejected_total", reason="disconnected") == 1)
        assert held.metric("aaserve_queue_depth") == 0
        assert held.metric("aaserve_batch_size_count") == 0


def test_openapi_describes_the_batch(service: RunningService) -> None:
    operation = service.client.get("/openapi.json").json()["paths"]["/classify/batch"]["post"]
    assert {"multipart/form-data", "application/json"} == set(operation["requestBody"]["content"])
    assert {"200", "400", "404", "413", "415", "422", "429", "500", "503", "504"} <= set(operation["responses"])
