"""A detector at the addresses of TorchServe and of the Open Inference Protocol, in model cards and in metrics."""

import base64
import json
from typing import Any

import httpx
import numpy as np
import pytest

from tests.detector_bundle import LABELS, NAME, coloured, coloured_png
from tests.helpers import RunningService
from tests.service.http.routes.detecting import BLUE, CLASSIFIER, PNG, RED, detect
from tests.toy_bundles import picture


def test_torchserves_address_answers_as_its_object_detectors_do(detector: RunningService) -> None:
    assert detector.client.put(f"/predictions/{NAME}", content=PNG).json() == [
        {"blue": [400.0, 300.0, 640.0, 480.0], "score": 1.0},
        {"red": [100.0, 60.0, 300.0, 200.0], "score": pytest.approx(0.8)},
    ]
    one = detector.client.post(f"/predictions/{NAME}/1", files={"data": PNG}, data={"max_detections": 1})
    assert [list(each) for each in one.json()] == [["blue", "score"]]
    for model, name, task in ((NAME, "top_k", "classification"), (CLASSIFIER, "score_threshold", "detection")):
        response = detector.client.post(f"/predictions/{model}", content=picture(1), params={name: 1})
        assert (response.status_code, response.json()["type"]) == (422, "BadRequestException")
        assert response.json()["message"].startswith(f"{name} is for models of {task}, and {model} is one of")


def infer(service: RunningService, model: str, body: dict[str, Any]) -> httpx.Response:
    return service.client.post(f"/v2/models/{model}/infer", json=body)


def tensors(response: httpx.Response) -> dict[str, np.ndarray]:
    assert response.status_code == 200, response.text
    return {output["name"]: np.array(output["data"]).reshape(output["shape"]) for output in response.json()["outputs"]}


def test_the_open_inference_protocol_offers_the_outputs_for_tensors(detector: RunningService) -> None:
    metadata = detector.client.get(f"/v2/models/{NAME}").json()
    assert metadata["outputs"] == [
        {"name": "boxes", "datatype": "FP32", "shape": [-1, 3, 4]},
        {"name": "scores", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "classes", "datatype": "INT64", "shape": [-1, 3]},
        {"name": "count", "datatype": "INT64", "shape": [-1]},
    ]
    rows = np.stack([np.asarray(coloured(64, 48)), np.asarray(coloured(64, 48, blue=((1, 2, 30, 40), 255)))])
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(rows.shape), "data": rows.ravel().tolist()}
    answer = tensors(infer(detector, NAME, {"inputs": [tensor]}))
    assert answer["count"].tolist() == [0, 1]
    assert answer["boxes"][1].tolist() == [[1, 2, 30, 40], [0] * 4, [0] * 4]  # pixels of the input, which was sent
    assert answer["classes"][1, 0] == 2
    wanted = {"inputs": [tensor], "outputs": [{"name": "scores", "parameters": {"classification": 1}}]}
    assert "classification is for outputs with a number for each label" in infer(detector, NAME, wanted).json()["error"]


@pytest.mark.parametrize("version", ["1", "2"], ids=["stretch", "letterbox"])
def test_the_open_inference_protocol_offers_boxes_in_pixels_of_encoded_pictures(
    detector: RunningService, version: str
) -> None:
    model = f"{NAME}:pictures/versions/{version}"
    assert detector.client.get(f"/v2/models/{model}").json()["inputs"] == [
        {"name": "image", "datatype": "BYTES", "shape": [-1]}
    ]
    other = coloured_png(1500, 50, green=((300, 0, 900, 50), 255))
    data = [base64.b64encode(image).decode() for image in (PNG, coloured_png(30, 20), other)]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [3], "data": data}
    answer = tensors(infer(detector, model, {"inputs": [tensor], "id": "x"}))
    assert answer["count"].tolist() == [2, 0, 1]
    np.testing.assert_allclose(answer["boxes"][0], [BLUE, RED, (0, 0, 0, 0)], atol=1e-3)
    np.testing.assert_allclose(answer["boxes"][2, 0], (300, 0, 900, 50), atol=24)
    assert not answer["boxes"][1].any()
    bare = detector.client.post(
        f"/v2/models/{model}/infer", content=PNG, headers={"Inference-Header-Content-Length": "0"}
    )
    length = int(bare.headers["inference-header-content-length"])
    described = json.loads(bare.content[:length])["outputs"]
    assert [each["name"] for each in described] == ["boxes", "scores", "classes", "count"]
    boxes = np.frombuffer(bare.content[length : length + 48], "<f4").reshape(3, 4)
    np.testing.assert_allclose(boxes[0], BLUE, atol=1e-3)


def test_the_model_card_says_the_task_and_how_good_it_is(detector: RunningService) -> None:
    card = detector.client.get(f"/models/{NAME}").json()
    version = card["versions"][0]
    assert (version["task"], version["labels"]) == ("detection", list(LABELS))
    assert version["suppression"] == {"score_threshold": 0.2, "iou_threshold": 0.5}
    assert version["accuracy"]["ap_50"] == 0.9
    assert version["parity"]["least_iou"] == 1
    assert version["preprocessing"]["fit"] == "letterbox"
    listed = {model["name"]: model["versions"] for model in detector.client.get("/models").json()["models"]}
    assert [version["task"] for version in listed[NAME]] == ["detection", "detection"]
    assert listed[CLASSIFIER] == [{"version": "1", "task": "classification", "state": "ready"}]
    assert "suppression" not in detector.client.get(f"/models/{CLASSIFIER}").json()["versions"][0]


def test_metrics_have_the_address_and_the_model(detector: RunningService) -> None:
    before = detector.metric("aaserve_requests_total", endpoint="/detect", model=NAME, code="200")
    detect(detector)
    assert detector.metric("aaserve_requests_total", endpoint="/detect", model=NAME, code="200") == before + 1
    assert detector.metric("aaserve_stage_duration_seconds_count", stage="decode", model=NAME) > 0
    assert detector.metric("aaserve_model_info", model=NAME, version="2", task="detection") == 1
    assert detector.metric("aaserve_model_info", model=CLASSIFIER, task="classification") == 1
