"""POST /detect and /detect/batch over a socket, by a model that finds the coloured areas of a picture."""

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.detector_bundle import NAME, coloured, coloured_png, write_detector
from tests.encoders import jpeg_segment, tiff_file, with_segment
from tests.helpers import RunningService, encode, noise, running_service
from tests.service.http.routes.detecting import BLUE, CLASSIFIER, HEIGHT, PNG, RED, WIDTH, detect, refused
from tests.toy_bundles import picture, write_fragile_bundle

PIXEL = 10  # of the input, in those of the picture


def found(response: httpx.Response) -> list[tuple[str, tuple[float, ...]]]:
    assert response.status_code == 200, response.text
    return [(each["label"], box_of(each)) for each in response.json()["detections"]]


def box_of(detection: dict[str, Any]) -> tuple[float, ...]:
    return tuple(detection["box"][side] for side in ("left", "top", "right", "bottom"))


def test_the_answer_has_boxes_in_pixels_of_the_picture_best_first(detector: RunningService) -> None:
    response = detect(detector)
    assert response.json() == {
        "model": NAME,
        "version": "2",
        "image": {"width": WIDTH, "height": HEIGHT},
        "detections": [
            {
                "label": "blue",
                "class_index": 2,
                "score": 1.0,
                "box": {"left": 400.0, "top": 300.0, "right": 640.0, "bottom": 480.0},
            },
            {
                "label": "red",
                "class_index": 0,
                "score": pytest.approx(0.8),
                "box": {"left": 100.0, "top": 60.0, "right": 300.0, "bottom": 200.0},
            },
        ],
    }
    assert response.headers["content-type"] == "application/json"
    assert response.headers["vary"] == "Accept"
    assert "inference;dur=" in response.headers["server-timing"]


WAYS = {
    "raw": {"content": PNG, "headers": {"Content-Type": "image/png"}},
    "a form": {"files": {"image": ("a.png", PNG)}, "data": {"version": "1", "score_threshold": "0.9"}},
    "JSON": {"json": {"image": base64.b64encode(PNG).decode(), "version": "1", "score_threshold": 0.9}},
    "JSON with a data URI and text": {
        "json": {
            "image": f"data:image/png;base64,{base64.b64encode(PNG).decode()}",
            "score_threshold": "0.9",
            "max_detections": 3,
        }
    },
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_form_of_body_that_classify_takes(detector: RunningService, way: dict[str, Any]) -> None:
    response = detector.client.post("/detect", params={"score_threshold": 0.9}, **way)
    assert found(response) == [("blue", tuple(map(float, BLUE)))]


@pytest.mark.parametrize("version", ["1", "2"], ids=["stretch", "letterbox"])
@pytest.mark.parametrize(
    ("size", "area"),
    [
        ((640, 480), (100, 60, 300, 200)),
        ((333, 777), (50, 500, 200, 700)),
        ((64, 48), (1, 2, 30, 40)),
        ((20, 10), (5, 0, 15, 10)),
        ((1500, 50), (300, 0, 900, 50)),
        ((50, 1500), (0, 300, 50, 900)),
        ((1, 1), (0, 0, 1, 1)),
    ],
    ids=str,
)
def test_a_box_is_where_it_is_in_a_picture_of_any_shape(
    detector: RunningService, version: str, size: tuple[int, int], area: tuple[int, int, int, int]
) -> None:
    response = detect(detector, coloured_png(*size, red=(area, 255)), version=version)
    [(label, box)] = found(response)
    assert (label, response.json()["image"]) == ("red", {"width": size[0], "height": size[1]})
    np.testing.assert_allclose(box, area, atol=max(size) / 48)
    assert 0 <= box[0] < box[2] <= size[0]
    assert 0 <= box[1] < box[3] <= size[1]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_those_of_the_upright_picture(detector: RunningService, orientation: int) -> None:
    stored = coloured(WIDTH, HEIGHT, red=(RED, 255))
    exif = tiff_file(b"", {274: (3, [orientation])}, order=">")
    turned = with_segment(encode(stored, "JPEG", quality=95), jpeg_segment(0xE1, b"Exif\0\0" + exif))
    with Image.open(io.BytesIO(turned)) as image:
        upright = ImageOps.exif_transpose(image)
    response = detect(detector, turned)
    [(_, box)] = found(response)
    assert tuple(response.json()["image"].values()) == upright.size
    rows, columns = np.nonzero(np.asarray(upright)[..., 0] > 127)
    expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_allclose(box, expected, atol=2 * PIXEL)


@pytest.mark.parametrize(
    ("params", "labels"),
    [
        ({}, ["blue", "red"]),
        ({"score_threshold": 0}, ["blue", "red", "green"]),
        ({"score_threshold": 0.4}, ["blue", "red", "green"]),
        ({"score_threshold": 0.5}, ["blue", "red"]),
        ({"score_threshold": 1}, ["blue"]),
        ({"score_threshold": 0, "max_detections": 2}, ["blue", "red"]),
        ({"max_detections": 1}, ["blue"]),
        ({"max_detections": 3}, ["blue", "red"]),
    ],
    ids=str,
)
def test_threshold_and_number_choose_among_the_detections(
    detector: RunningService, params: dict[str, Any], labels: list[str]
) -> None:
    image = coloured_png(WIDTH, HEIGHT, red=(RED, 204), blue=(BLUE, 255), green=((0, 0, 50, 50), 102))
    assert [label for label, _ in found(detect(detector, image, **params))] == labels


def test_a_picture_with_nothing_in_it_has_an_empty_list(detector: RunningService) -> None:
    assert found(detect(detector, coloured_png(30, 20), score_threshold=0)) == []


def test_a_missing_version_is_one_of_the_model_that_detects(tmp_path: Path) -> None:
    write_fragile_bundle(tmp_path, name=CLASSIFIER)
    write_detector(tmp_path)
    with running_service("--default-model", CLASSIFIER, repository=tmp_path) as running:
        form = running.client.post("/detect", files={"image": ("a.png", PNG)}, params={"version": "9"})
        for answer in (form, detect(running, version="9")):
            assert refused(answer) == (404, "model_not_found", f"no such version of {NAME}; served: 1")


BAD = [
    ("score_threshold", "-0.1", "score_threshold must be 0 to 1, found -0.1"),
    ("score_threshold", "1.01", "score_threshold must be 0 to 1, found 1.01"),
    ("score_threshold", "nan", "score_threshold is not a finite number"),
    ("score_threshold", "inf", "score_threshold is not a finite number"),
    ("score_threshold", "half", "score_threshold is not a number"),
    ("score_threshold", "", "score_threshold is not a number"),
    ("max_detections", "0", "max_detections must be 1 or more, found 0"),
    ("max_detections", "-1", "max_detections must be 1 or more, found -1"),
    ("max_detections", "4", "max_detections must be 1 to 3 for colours, found 4"),
    ("max_detections", "1.5", "max_detections is not a whole number"),
    ("top_k", "1", "top_k is not a parameter of this address"),
    ("threshold", "0.3", "unknown parameter 'threshold'; did you mean 'score_threshold'?"),
]


@pytest.mark.parametrize(("name", "value", "detail"), BAD, ids=lambda value: str(value)[:30])
def test_parameters_out_of_range_are_refused(detector: RunningService, name: str, value: str, detail: str) -> None:
    assert refused(detect(detector, **{name: value})) == (422, "invalid_parameter", detail)
    if name in ("score_threshold", "max_detections"):
        form = detector.client.post("/detect", files={"image": ("a.png", PNG)}, data={name: value})
        assert refused(form) == (422, "invalid_parameter", detail)
        batch = detector.client.post("/detect/batch", files={"image": ("a.png", PNG)}, params={name: value})
        assert refused(batch) == (422, "invalid_parameter", detail)


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"score_threshold": True}, "score_threshold must be a number, found a boolean"),
        ({"score_threshold": [0.5]}, "score_threshold must be a number, found an array"),
        ({"score_threshold": 2}, "score_threshold must be 0 to 1, found 2"),
        ({"max_detections": 1.5}, "max_detections must be a string or a whole number, found a number"),
        ({"threshold": 0.5}, "unknown field 'threshold'; did you mean 'score_threshold'?"),
    ],
    ids=str,
)
def test_json_is_checked_as_the_query_is(detector: RunningService, fields: dict[str, Any], detail: str) -> None:
    body = {"image": base64.b64encode(PNG).decode(), **fields}
    assert refused(detector.client.post("/detect", json=body)) == (422, "invalid_parameter", detail)


def test_query_and_body_must_not_differ(detector: RunningService) -> None:
    both = {"files": {"image": ("a.png", PNG)}, "data": {"score_threshold": "0.5"}}
    assert found(detector.client.post("/detect", params={"score_threshold": "0.50"}, **both))
    status, _, detail = refused(detector.client.post("/detect", params={"score_threshold": 0.6}, **both))
    assert (status, detail) == (422, "score_threshold is given in the query and in the body, with different values")


BROKEN = {
    "empty": (b"", 400, "invalid_image"),
    "truncated": (encode(noise(99, 99), "JPEG")[:999], 400, "invalid_image"),
    "text": (b"text", 415, "unsupported_media_type"),
    "too many pixels": (encode(Image.new("1", (10_000, 6_000)), "PNG"), 413, "image_too_large"),
}


@pytest.mark.parametrize(("image", "status", "code"), BROKEN.values(), ids=BROKEN)
def test_broken_pictures_are_refused_as_classify_refuses_them(
    detector: RunningService, image: bytes, status: int, code: str
) -> None:
    assert refused(detect(detector, image))[:2] == (status, code)


def test_broken_pictures_in_a_batch_fail_by_themselves(detector: RunningService) -> None:
    small = coloured_png(64, 48, green=((10, 10, 20, 30), 255))
    images = [PNG, *(image for image, _, _ in BROKEN.values()), small]
    for body in (
        {"files": [("image", (f"{number}.png", image)) for number, image in enumerate(images)]},
        {"json": {"images": [base64.b64encode(image).decode() for image in images], "score_threshold": 0.5}},
    ):
        response = detector.client.post("/detect/batch", params={"max_detections": 1}, **body)
        answer = response.json()
        assert (response.status_code, answer["model"], answer["version"]) == (200, NAME, "2")
        first, *broken, last = answer["results"]
        assert first["image"] == {"width": WIDTH, "height": HEIGHT}
        assert [(each["label"], box_of(each)) for each in first["detections"]] == [("blue", BLUE)]
        assert [list(each) for each in broken] == [["problem"]] * len(BROKEN)
        assert [each["problem"]["code"] for each in broken] == [code for _, _, code in BROKEN.values()]
        assert [(each["label"], box_of(each)) for each in last["detections"]] == [("green", (10, 10, 20, 30))]


IMAGE = {"Content-Type": "image/png"}
FORM = {"files": {"image": ("a.png", PNG)}}


@pytest.mark.parametrize(
    ("path", "model", "right"),
    [
        ("/classify", NAME, "/detect and /detect/batch"),
        ("/classify/batch", NAME, "/detect and /detect/batch"),
        ("/explain", NAME, "/detect and /detect/batch"),
        ("/detect", CLASSIFIER, "/classify and /classify/batch"),
        ("/detect/batch", CLASSIFIER, "/classify and /classify/batch"),
    ],
)
def test_a_model_of_another_task_is_refused_with_the_address_that_takes_it(
    detector: RunningService, path: str, model: str, right: str
) -> None:
    task = "detection" if model == NAME else "classification"
    expected = (422, "wrong_task", f"{model} is a model of {task}; {right} take it")
    assert refused(detector.client.post(path, params={"model": model}, **FORM)) == expected
    assert refused(detector.client.post(path, files=FORM["files"], data={"model": model})) == expected
    if not path.endswith("/batch"):
        raw = detector.client.post(path, params={"model": model}, content=PNG, headers=IMAGE)
        assert refused(raw) == expected


def test_without_a_name_the_only_model_of_the_task_answers(detector: RunningService) -> None:
    assert detector.client.get("/models").json()["default_model"] is None
    expected = f"a request that names no model: classification answered by {CLASSIFIER}; detection answered by {NAME}"
    assert any(expected in line for line in detector.log)
    assert detect(detector).json()["model"] == NAME
    assert detector.classify(picture(1)).json()["model"] == CLASSIFIER
    assert detector.client.post("/classify", files={"image": ("a.png", picture(1))}).json()["model"] == CLASSIFIER
    assert detector.client.post("/detect", **FORM).json()["model"] == NAME


def test_a_service_without_a_detector_says_so(tmp_path: Path) -> None:
    for name in ("one", "other"):
        write_fragile_bundle(tmp_path, name=name)
    with running_service(repository=tmp_path) as service:
        expected = (404, "model_not_found", "no model for detection; served: one, other")
        assert refused(detect(service)) == expected
        assert refused(service.client.post("/detect", **FORM)) == expected
