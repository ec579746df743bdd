"""/v2 over a socket: what the unmodified clients in tests/clients cannot send."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from tests.full_service import MODEL, full_service
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
    picture,
    tensor,
)


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
