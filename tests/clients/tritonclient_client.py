"""tritonclient[http], sync and aio. Run by test_clients.py in an environment that has nothing of ours."""

import asyncio
import json
import os
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

URL = os.environ["AASERVE_URL"].rstrip("/")
HOST = URL.removeprefix("http://")
KEY = {"Authorization": f"Bearer {os.environ['KEY']}"}
MODEL = "aa-cifar100"
PICTURES = "aa-cifar100:pictures"
FILES = [path.read_bytes() for path in sorted(Path(os.environ["PICTURES"]).glob("*.jpg"))]


def classify(picture):
    """What our own address says: [(label, index, score)]."""
    headers = {"Content-Type": "application/octet-stream", **KEY}
    request = urllib.request.Request(f"{URL}/classify?top_k=100", picture, headers)
    with urllib.request.urlopen(request) as answer:
        return [(each["label"], each["class_index"], each["score"]) for each in json.load(answer)["predictions"]]


EXPECTED = [classify(picture) for picture in FILES]


def scores_by_index(expected):
    scores = np.zeros(100, np.float32)
    for _, index, score in expected:
        scores[index] = score
    return scores


def softmax(logits):
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def picture_input(files=FILES, module=triton):
    tensor = module.InferInput("image", [len(files)], "BYTES")
    return tensor.set_data_from_numpy(np.array(files, dtype=object))


def pixels(rows):
    return np.random.default_rng(7).integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)


def tensor_input(values, binary):
    return triton.InferInput("image", list(values.shape), "UINT8").set_data_from_numpy(values, binary_data=binary)


class Key(triton.InferenceServerClientPlugin):
    """Its own way to send a key with every request."""

    def __call__(self, request):
        request.headers.update(KEY)


@pytest.fixture(scope="module")
def client():
    with triton.InferenceServerClient(HOST) as opened:
        opened.register_plugin(Key())
        yield opened


def test_health(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(PICTURES, "1")
    assert not client.is_model_ready("nope")
    assert not client.is_model_ready(MODEL, "2")


def test_metadata_and_config_agree(client):
    assert "statistics" in client.get_server_metadata()["extensions"]
    for name, datatype in ((MODEL, "UINT8"), (PICTURES, "BYTES")):
        metadata = client.get_model_metadata(name)
        config = client.get_model_config(name, "1")
        assert metadata["name"] == config["name"] == name
        assert metadata["versions"] == ["1"]
        assert [tensor["datatype"] for tensor in metadata["inputs"]] == [datatype]
        assert config["max_batch_size"] > 0
        for ours, triton_s in ((metadata["inputs"], config["input"]), (metadata["outputs"], config["output"])):
            assert [tensor["name"] for tensor in ours] == [tensor["name"] for tensor in triton_s]
            assert [tensor["shape"] for tensor in ours] == [[-1, *tensor["dims"]] for tensor in triton_s]


def test_pictures_get_classifys_scores(client):
    result = client.infer(PICTURES, [picture_input()], request_id="order-66")  # without outputs: all, as binary
    scores = result.as_numpy("scores")
    assert scores.dtype == np.float32
    for row, expected in zip(scores, EXPECTED, strict=True):
        np.testing.assert_allclose(row, scores_by_index(expected), atol=1e-5)
    np.testing.assert_allclose(softmax(result.as_numpy("logits")), scores, atol=1e-5)
    assert result.get_response()["id"] == "order-66"
    assert result.get_response()["model_version"] == "1"


@pytest.mark.parametrize("binary", [True, False])
def test_class_count_gives_classifys_labels(client, binary):
    output = triton.InferRequestedOutput("scores", binary_data=binary, class_count=5)
    rows = client.infer(PICTURES, [picture_input()], outputs=[output]).as_numpy("scores")
    assert rows.shape == (len(FILES), 5)
    for row, expected in zip(rows, EXPECTED, strict=True):
        found = [(text.decode() if binary else text).split(":") for text in row]
        assert [(label, int(index)) for _, index, label in found] == [each[:2] for each in expected[:5]]
        for (score, _, _), (_, _, wanted) in zip(found, expected, strict=False):
            assert float(score) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("binary_in", [True, False], ids=["binary in", "JSON in"])
@pytest.mark.parametrize("binary_out", [True, False], ids=["binary out", "JSON out"])
def test_tensors_in_every_encoding_give_the_same_logits(client, binary_in, binary_out):
    output = triton.InferRequestedOutput("logits", binary_data=binary_out)
    found = client.infer(MODEL, [tensor_input(pixels(3), binary_in)], outputs=[output]).as_numpy("logits")
    assert found.shape == (3, 100)
    alone = [client.infer(MODEL, [tensor_input(row[None], True)]).as_numpy("logits")[0] for row in pixels(3)]
    np.testing.assert_allclose(found, alone, atol=1e-4)


def test_more_rows_than_one_model_call_takes(client):
    found = client.infer(MODEL, [tensor_input(pixels(20), True)]).as_numpy("logits")
    alone = client.infer(MODEL, [tensor_input(pixels(20)[19:], True)]).as_numpy("logits")
    np.testing.assert_allclose(found[19], alone[0], atol=1e-4)


@pytest.mark.parametrize("request_algorithm", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_algorithm", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_compression(client, request_algorithm, response_algorithm, binary):
    values = pixels(4)
    result = client.infer(
        MODEL,
        [tensor_input(values, binary)],
        outputs=[triton.InferRequestedOutput("logits", binary_data=binary)],
        request_compression_algorithm=request_algorithm,
        response_compression_algorithm=response_algorithm,
    )
    expected = client.infer(MODEL, [tensor_input(values, True)]).as_numpy("logits")
    np.testing.assert_allclose(result.as_numpy("logits"), expected, atol=1e-4)


def test_statistics_count_finished_work(client):
    def statistics():
        (found,) = client.get_inference_statistics(MODEL)["model_stats"]
        return found

    before = statistics()
    client.infer(MODEL, [tensor_input(pixels(3), True)])
    client.infer(PICTURES, [picture_input(FILES[:2])])
    with pytest.raises(InferenceServerException):
        client.infer(PICTURES, [picture_input([b"\xff\xd8\xff"])])
    after = statistics()
    assert after["inference_count"] - before["inference_count"] == 5
    assert 2 <= after["execution_count"] - before["execution_count"] <= 5  # lanes that are free share the rows
    assert after["last_inference"] >= before["last_inference"]
    assert after["inference_stats"]["fail"]["count"] - before["inference_stats"]["fail"]["count"] == 1
    for stage in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert after["inference_stats"][stage]["count"] - before["inference_stats"][stage]["count"] == 2, stage
    assert after["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]
    assert sum(each["compute_infer"]["count"] for each in after["batch_stats"]) == after["execution_count"]
    assert client.get_inference_statistics()["model_stats"][0]["name"] == MODEL


def test_the_repository_index_lists_both_names(client):
    index = client.get_model_repository_index()
    assert [(each["name"], each["version"], each["state"]) for each in index] == [
        (MODEL, "1", "READY"),
        (PICTURES, "1", "READY"),
    ]


def test_errors_are_its_exceptions_with_our_words(client):
    wrong_shape = triton.InferInput("image", [1, 8, 8, 3], "UINT8")
    wrong_shape.set_data_from_numpy(np.zeros((1, 8, 8, 3), np.uint8))
    wrong_type = triton.InferInput("image", [1, 32, 32, 3], "FP32")
    wrong_type.set_data_from_numpy(np.zeros((1, 32, 32, 3), np.float32))
    for model, tensor, status, words in (
        (MODEL, wrong_shape, "400", "[N, 32, 32, 3]"),
        (MODEL, wrong_type, "400", "UINT8"),
        (MODEL, tensor_input(pixels(33), True), "413", "32 rows"),
        ("nope", wrong_shape, "404", "no such model"),
        (PICTURES, picture_input([b"I am no picture"]), "415", "JPEG"),
        (PICTURES, picture_input([FILES[0], FILES[0][:2000]]), "400", "truncated"),
    ):
        with pytest.raises(InferenceServerException) as caught:
            client.infer(model, [tensor])
        assert caught.value.status() == status
        assert words in caught.value.message()
    with pytest.raises(InferenceServerException, match="no such model"):
        client.get_model_metadata("nope")
    with pytest.raises(InferenceServerException, match="logits"):
        client.infer(MODEL, [tensor_input(pixels(1), True)], outputs=[triton.InferRequestedOutput("nope")])


def test_a_timeout_is_a_deadline(client):
    with pytest.raises(InferenceServerException, match="deadline"):
        client.infer(PICTURES, [picture_input()], timeout=1)  # microsecond


def test_a_request_body_that_was_made_in_advance(client):
    body, length = triton.InferenceServerClient.generate_request_body([picture_input(FILES[:1])])
    request = urllib.request.Request(f"{URL}/v2/models/{PICTURES}/infer", body, KEY)
    request.add_header("Inference-Header-Content-Length", str(length))
    with urllib.request.urlopen(request) as answer:
        content = answer.read()
        result = triton.InferenceServerClient.parse_response_body(
            content, header_length=int(answer.headers["Inference-Header-Content-Length"])
        )
    np.testing.assert_allclose(result.as_numpy("scores")[0], scores_by_index(EXPECTED[0]), atol=1e-5)


def test_a_missing_key_raises_the_clients_own_exception():
    with triton.InferenceServerClient(HOST) as stranger:
        assert stranger.is_server_live()
        assert stranger.is_server_ready()
        assert not stranger.is_model_ready(MODEL)
        for ask in (
            lambda: stranger.infer(PICTURES, [picture_input()]),
            lambda: stranger.get_model_metadata(MODEL),
            lambda: stranger.unload_model(MODEL),
        ):
            with pytest.raises(InferenceServerException, match="a key is needed") as caught:
                ask()
            assert caught.value.status() == "401"
        assert stranger.infer(PICTURES, [picture_input()], headers=KEY).as_numpy("scores") is not None


def test_models_are_loaded_and_unloaded(client):
    client.unload_model(MODEL)
    assert not client.is_model_ready(MODEL)
    assert client.get_model_repository_index() == []
    with pytest.raises(InferenceServerException, match="no such model"):
        client.infer(PICTURES, [picture_input()])
    with pytest.raises(InferenceServerException, match="no such model"):
        client.load_model("nope")
    client.load_model(MODEL)
    assert client.is_model_ready(MODEL)
    result = client.infer(PICTURES, [picture_input(FILES[:1])])
    np.testing.assert_allclose(result.as_numpy("scores")[0], scores_by_index(EXPECTED[0]), atol=1e-5)


def test_the_asyncio_client():
    async def talk():
        async with triton_aio.InferenceServerClient(HOST) as client:
            client.register_plugin(Key())
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready(PICTURES)
            assert (await client.get_model_metadata(MODEL))["name"] == MODEL
            assert (await client.get_model_config(MODEL))["name"] == MODEL
            assert (await client.get_inference_statistics(MODEL))["model_stats"][0]["inference_count"] > 0
            assert len(await client.get_model_repository_index()) == 2
            for algorithm in (None, "gzip", "deflate"):
                results = await asyncio.gather(
                    *(
                        client.infer(
                            PICTURES,
                            [picture_input([picture], triton_aio)],
                            request_compression_algorithm=algorithm,
                            response_compression_algorithm=algorithm,
                        )
                        for picture in FILES
                    )
                )
                for result, expected in zip(results, EXPECTED, strict=True):
                    found = result.as_numpy("scores")[0]
                    np.testing.assert_allclose(found, scores_by_index(expected), atol=1e-5)
            with pytest.raises(InferenceServerException, match="no such model"):
                await client.infer("nope", [picture_input()])

    asyncio.run(talk())
