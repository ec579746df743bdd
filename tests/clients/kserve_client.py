"""kserve's InferenceRESTClient. Run by test_clients.py in an environment that has nothing of ours."""

import asyncio
import base64
import json
import os
import urllib.request
from pathlib import Path

import httpx
import numpy as np
import pytest
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

URL = os.environ["AASERVE_URL"].rstrip("/")
KEY = {"Authorization": f"Bearer {os.environ['KEY']}"}
MODEL = "aa-cifar100"
PICTURES = "aa-cifar100:pictures"
PICTURE = (Path(os.environ["PICTURES"]) / "cat.jpg").read_bytes()


def classify():
    """What our own address says: scores by class."""
    headers = {"Content-Type": "application/octet-stream", **KEY}
    request = urllib.request.Request(f"{URL}/classify?top_k=100", PICTURE, headers)
    with urllib.request.urlopen(request) as answer:
        predictions = json.load(answer)["predictions"]
    return [each["score"] for each in sorted(predictions, key=lambda each: each["class_index"])]


def talk(work):
    async def run():
        client = InferenceRESTClient(RESTConfig(protocol="v2"))
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(run())


def infer(data, model):
    return talk(lambda client: client.infer(URL, data, model_name=model, headers=dict(KEY)))  # it adds to them


def test_health():
    assert talk(lambda client: client.is_server_live(URL)) is True
    assert talk(lambda client: client.is_server_ready(URL)) is True
    assert talk(lambda client: client.is_model_ready(URL, MODEL, headers=KEY)) is True
    assert talk(lambda client: client.is_model_ready(URL, PICTURES, headers=KEY)) is True


@pytest.mark.parametrize("binary_out", [True, False], ids=["binary out", "JSON out"])
def test_a_picture_as_bytes(binary_out):
    tensor = InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([PICTURE], dtype=object), binary_data=True)
    request = InferRequest(
        PICTURES,
        [tensor],
        request_id="order-66",
        request_outputs=[RequestedOutput("scores", {"binary_data": binary_out})],
    )
    response = infer(request, PICTURES)
    assert (response.model_name, response.id) == (PICTURES, "order-66")  # this client drops the version
    np.testing.assert_allclose(response.outputs[0].as_numpy()[0], classify(), atol=1e-5)


def test_a_picture_as_base64_in_json():
    text = base64.b64encode(PICTURE).decode()
    data = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}]}
    response = infer(data, PICTURES)
    outputs = {output.name: output.as_numpy() for output in response.outputs}
    assert set(outputs) == {"scores", "logits"}
    np.testing.assert_allclose(outputs["scores"][0], classify(), atol=1e-5)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_tensors(binary):
    pixels = np.random.default_rng(7).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    tensor = InferInput("image", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    (output,) = infer(InferRequest(MODEL, [tensor]), MODEL).outputs
    assert (output.name, output.as_numpy().shape) == ("logits", (3, 100))


def test_errors_carry_our_words():
    tensor = InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b"I am no picture"], dtype=object), binary_data=True)
    with pytest.raises(httpx.HTTPStatusError, match="not a JPEG, PNG"):
        infer(InferRequest(PICTURES, [tensor]), PICTURES)
    with pytest.raises(httpx.HTTPStatusError, match="no such model"):
        infer({"inputs": []}, "nope")
    assert talk(lambda client: client.is_server_live(URL))
