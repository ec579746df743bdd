"""POST /explain over a socket: the shipped bundle, and one whose attention is known beforehand."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from aaserve.bundle.bundle import open_bundle
from aaserve.bundle.manifest import AttentionMap
from aaserve.bundle.model_input import read_input
from aaserve.service.attention.render import for_form
from aaserve.service.attention.selection import AttentionSelection
from aaserve.service.errors import InvalidParameter
from tests.helpers import EXAMPLES, REPOSITORY, RunningService, running_service
from tests.looking_bundle import COLUMNS, LAYER, RED, RIGHT, ROWS, looking_picture, write_looking_bundle
from tests.toy_bundles import picture, write_fragile_bundle

JPEG = (EXAMPLES / "cat.jpg").read_bytes()
LAYERS = ["layer3.0.conv1", "layer3.1.conv1", "layer3.2.conv1"]
NPY = "application/x-npy"


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """The network that looks where it must, and one without attention maps."""
    repository = tmp_path_factory.mktemp("toys")
    write_looking_bundle(repository)
    write_fragile_bundle(repository)
    with running_service(repository=repository) as running:
        yield running


def explain(service: RunningService, image_bytes: bytes = JPEG, *, accept: str = "", **params: Any) -> httpx.Response:
    headers = {"Content-Type": "application/octet-stream"} | ({"Accept": accept} if accept else {})
    return service.client.post("/explain", content=image_bytes, params=params, headers=headers)


def look(service: RunningService, image_bytes: bytes, **params: Any) -> np.ndarray:
    """What the toy answers: (heads, rows, columns)."""
    [layer] = explain(service, image_bytes, model=LAYER, **params).json()["layers"]
    return np.array([head["attention"] for head in layer["heads"]])


def shown(response: httpx.Response) -> np.ndarray:
    """The pixels of a PNG, (H, W, 3)."""
    assert response.status_code == 200, response.text
    image = Image.open(io.BytesIO(response.content))
    assert (response.headers["content-type"], image.format) == ("image/png", "PNG")
    return np.asarray(image.convert("RGB"), np.float32)


@pytest.fixture(scope="module")
def maps() -> dict[str, np.ndarray]:
    """The shipped graph's own maps of the cat, by layer: (heads, 8, 8, 8, 8)."""
    opened = open_bundle(REPOSITORY / "aa-cifar100" / "1")
    session = onnxruntime.InferenceSession(opened.model_path)
    row = read_input(JPEG, opened.manifest, max_pixels=10**7)
    found = session.run([f"attention.{layer}" for layer in LAYERS], {"image": row[None]})
    return {layer: values[0].reshape(-1, 8, 8, 8, 8) for layer, values in zip(LAYERS, found, strict=True)}


def test_every_layer_and_head_says_where_the_picture_looks_on_average(
    service: RunningService, maps: dict[str, np.ndarray]
) -> None:
    answer = explain(service).json()
    assert (answer["model"], answer["version"], answer["position"]) == ("aa-cifar100", "1", None)
    assert [layer["layer"] for layer in answer["layers"]] == LAYERS
    for layer in answer["layers"]:
        assert (layer["grid"], layer["query"]) == ([8, 8], None)
        assert [head["head"] for head in layer["heads"]] == [0, 1, 2, 3]
        for head in layer["heads"]:
            assert np.sum(head["attention"]) == pytest.approx(1, abs=1e-4)
            expected = maps[layer["layer"]][head["head"]].mean(axis=(0, 1))
            np.testing.assert_allclose(head["attention"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("position", "row", "column"),
    [("0,0", 0, 0), ("1,1", 7, 7), ("0.4,.9", 7, 3), ("0.125,0.5", 4, 1), ("1.0,0", 0, 7)],
)
def test_a_position_is_a_fraction_of_the_picture(
    service: RunningService, maps: dict[str, np.ndarray], position: str, row: int, column: int
) -> None:
    answer = explain(service, position=position, layer=LAYERS[1], head=2).json()
    x, y = map(float, position.split(","))
    assert answer["position"] == {"x": x, "y": y}
    [layer] = answer["layers"]
    assert (layer["layer"], layer["query"]) == (LAYERS[1], [row, column])
    [head] = layer["heads"]
    assert head["head"] == 2
    np.testing.assert_allclose(head["attention"], maps[LAYERS[1]][2, row, column], atol=1e-5)


def test_the_mean_is_that_of_the_heads(service: RunningService, maps: dict[str, np.ndarray]) -> None:
    [head] = explain(service, layer=LAYERS[0], head="mean", position="0.5,0.5").json()["layers"][0]["heads"]
    assert head["head"] == "mean"
    np.testing.assert_allclose(head["attention"], maps[LAYERS[0]][:, 4, 4].mean(axis=0), atol=1e-5)


def test_a_hand_made_network_looks_where_it_must(toys: RunningService) -> None:
    red_at_3_1 = looking_picture((3, 1))
    for row in range(ROWS):
        for column in range(COLUMNS):
            heads = look(toys, red_at_3_1, position=f"{(column + 0.5) / COLUMNS},{(row + 0.5) / ROWS}")
            assert heads[RED, 3, 1] > 0.999
            if column + 1 < COLUMNS:
                assert heads[RIGHT, row, column + 1] > 0.999
            else:
                np.testing.assert_allclose(heads[RIGHT, row], 1 / COLUMNS, atol=1e-4)
    assert look(toys, looking_picture((0, 4)))[RED, 0, 4] > 0.999
    halves = look(toys, looking_picture((0, 0), (2, 5)))[RED]
    assert (halves[0, 0], halves[2, 5]) == (pytest.approx(0.5, abs=1e-3), pytest.approx(0.5, abs=1e-3))


def test_a_png_is_bright_where_the_head_looks_and_frames_the_cell_that_looks(toys: RunningService) -> None:
    pixels = shown(
        explain(toys, looking_picture((3, 1)), accept="image/png", model=LAYER, head=RED, position="0.9,0.1")
    )
    assert pixels.shape == (4 * 74, 6 * 74, 3)  # whole factors, up to 448
    cells = pixels.reshape(4, 74, 6, 74, 3).mean(axis=(1, 3, 4))
    assert cells.argmax() == 3 * 6 + 1
    frame = pixels[:4, 5 * 74 : 6 * 74].reshape(-1, 3)
    assert (frame == 255).all(axis=1).any()


def test_a_png_shows_the_last_layer_the_mean_and_the_average_unless_told_otherwise(service: RunningService) -> None:
    default = shown(explain(service, accept="image/png"))
    assert default.shape == (448, 448, 3)
    same = shown(explain(service, accept="image/png", layer=LAYERS[-1], head="mean"))
    np.testing.assert_array_equal(default, same)
    others = [{"layer": LAYERS[0]}, {"head": 1}, {"position": "0,0"}, {"position": "0.5,0.5"}, {"position": "0.9,0.5"}]
    pictures = [default, *(shown(explain(service, accept="image/png", **params)) for params in others)]
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)


def test_an_array_is_the_whole_map_of_a_layer(service: RunningService, maps: dict[str, np.ndarray]) -> None:
    response = explain(service, accept=NPY)
    assert response.headers["content-type"] == NPY
    found = np.load(io.BytesIO(response.content))
    assert (found.shape, found.dtype) == ((4, 8, 8, 8, 8), np.dtype("<f4"))
    np.testing.assert_allclose(found, maps[LAYERS[-1]], atol=1e-5)
    mean = np.load(io.BytesIO(explain(service, accept=NPY, layer=LAYERS[0], head="mean").content))
    np.testing.assert_allclose(mean, maps[LAYERS[0]].mean(axis=0, keepdims=True), atol=1e-5)


def test_every_way_to_send_a_picture_gives_the_same_answer(service: RunningService) -> None:
    answers = [
        explain(service),
        service.client.post("/explain", files={"image": ("cat.jpg", JPEG, "image/jpeg")}),
        service.client.post("/explain", json={"image": base64.b64encode(JPEG).decode()}),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert len({answer.text for answer in answers}) == 1


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("*/*", "application/json"),
        ("image/*", "image/png"),
        ("image/png;q=0.5, application/json;q=0.4", "image/png"),
        ("text/html, */*;q=0.8", "application/json"),
        ("image/png;q=0, */*", "application/json"),
        ("application/json;q=0, */*", "image/png"),
        ("IMAGE/PNG", "image/png"),
        ("application/json;q=oops, image/png;q=0.1", "image/png"),
    ],
)
def test_the_form_is_what_accept_likes_best(service: RunningService, accept: str, media_type: str) -> None:
    response = explain(service, accept=accept, layer=LAYERS[0])
    assert response.headers["content-type"] == media_type
    assert response.headers["vary"] == "Accept"


@pytest.mark.parametrize(
    ("params", "accept", "status", "code", "words"),
    [
        ({"layer": "conv9"}, "", 422, "invalid_parameter", "layer must be one of layer3.0.conv1, "),
        ({"head": "4"}, "", 422, "invalid_parameter", "head must be mean or 0 to 3"),
        ({"head": "-1"}, "", 422, "invalid_parameter", "head must be"),
        ({"head": "١"}, "", 422, "invalid_parameter", "head must be"),
        ({"position": "0.5"}, "", 422, "invalid_parameter", "position must be x,y"),
        ({"position": "0.5,1.01"}, "", 422, "invalid_parameter", "position must be x,y"),
        ({"position": "-0.1,0"}, "", 422, "invalid_parameter", "position must be x,y"),
        ({"position": "nan,0"}, "", 422, "invalid_parameter", "position must be x,y"),
        ({"position": "0,0"}, NPY, 422, "invalid_parameter", "has them all"),
        ({}, "text/html", 406, "not_acceptable", "application/json, image/png"),
        ({"model": "other"}, "", 404, "model_not_found", "no such model"),
        ({"version": "7"}, "", 404, "model_not_found", "no such version"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    service: RunningService, params: dict, accept: str, status: int, code: str, words: str
) -> None:
    response = explain(service, accept=accept, **params)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert words in response.json()["detail"]
    assert response.headers["content-type"] == "application/problem+json"


def test_an_array_that_would_be_too_large_is_refused() -> None:
    fine = AttentionMap(layer="fine", output="attention.fine", dtype="float32", num_heads=2, grid=(32, 32))
    one_head = AttentionSelection((fine,), head=1, position=None)
    assert for_form(one_head, NPY) == one_head
    with pytest.raises(InvalidParameter, match="8388608 bytes are too many"):
        for_form(AttentionSelection((fine,), head=None, position=None), NPY)


def test_bad_pictures_are_refused_as_everywhere(service: RunningService) -> None:
    assert explain(service, JPEG[:3000]).json()["code"] == "invalid_image"
    assert explain(service, b"").json()["code"] == "invalid_image"
    wrong = service.client.post("/explain", content=JPEG, headers={"Content-Type": "text/plain"})
    assert (wrong.status_code, wrong.json()["code"]) == (415, "unsupported_media_type")


def test_a_model_without_maps_says_so_and_classifies(toys: RunningService) -> None:
    refused = explain(toys, picture(1), model="fragile")
    assert (refused.status_code, refused.json()["code"]) == (404, "no_attention")
    assert "fragile version 1 was exported without attention maps" in refused.json()["detail"]
    assert toys.classify(picture(1), model="fragile").status_code == 200
    cards = {name: toys.client.get(f"/models/{name}").json()["versions"][0] for name in (LAYER, "fragile")}
    assert cards["fragile"]["attention"] == []
    [offered] = cards[LAYER]["attention"]
    assert (offered["layer"], offered["num_heads"], offered["grid"]) == (LAYER, 2, [ROWS, COLUMNS])


def test_the_refusal_is_observed_like_every_request(service: RunningService) -> None:
    before = service.metric("aaserve_requests_total", endpoint="/explain", code="200")
    calls = service.metric("aaserve_batch_size_count")
    response = explain(service)
    timing = [part.split(";")[0] for part in response.headers["server-timing"].split(", ")]
    assert timing == ["receive", "decode", "queue", "inference", "render", "total"]
    assert response.headers["x-request-id"]
    assert service.metric("aaserve_requests_total", endpoint="/explain", code="200") == before + 1
    assert service.metric("aaserve_batch_size_count") == calls + 1


def test_openapi_describes_explain(service: RunningService) -> None:
    document = service.client.get("/openapi.json").json()
    operation = document["paths"]["/explain"]["post"]
    assert {"image/*", "multipart/form-data", "application/json"} <= set(operation["requestBody"]["content"])
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "image/png", NPY}
    statuses = ["200", "400", "401", "403", "404", "406", "408", "413", "415", "422", "429", "500", "503", "504"]
    assert set(operation["responses"]) == set(statuses)
    assert {"layer", "head", "position", "model", "version"} <= {item["name"] for item in operation["parameters"]}
    assert "heads" in document["components"]["schemas"]["LayerMaps"]["properties"]
