"""POST /classify over a socket: every way to send a picture, every kind of picture."""

import base64
import concurrent.futures

import numpy as np
import pytest
from PIL import Image

from aaserve.bundle.bundle import open_bundle
from tests.helpers import EXAMPLES, EXIF_ORIENTATION, REPOSITORY, RunningService, encode, photograph

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()


def sixteen_bit() -> Image.Image:
    grey = np.asarray(photograph().convert("L"), dtype=np.uint16)
    return Image.fromarray(grey * 257)


PICTURES = {
    "jpeg": encode(photograph(), "JPEG", quality=95),
    "progressive jpeg": encode(photograph(), "JPEG", quality=95, progressive=True),
    "cmyk jpeg": encode(photograph().convert("CMYK"), "JPEG", quality=95),
    "png": encode(photograph(), "PNG"),
    "palette png": encode(photograph().quantize(256), "PNG"),
    "alpha png": encode(photograph().convert("RGBA"), "PNG"),
    "webp": encode(photograph(), "WEBP", quality=95),
    "gif": encode(photograph(), "GIF", save_all=True, append_images=[Image.new("RGB", (400, 267))]),
    "bmp": encode(photograph(), "BMP"),
    "tiff": encode(photograph(), "TIFF"),
    "compressed tiff": encode(photograph(), "TIFF", compression="tiff_lzw"),
}
GREY_PICTURES = {
    "grey jpeg": encode(photograph().convert("L"), "JPEG", quality=95),
    "grey png": encode(photograph().convert("L"), "PNG"),
    "grey alpha png": encode(photograph().convert("LA"), "PNG"),
    "16-bit png": encode(sixteen_bit(), "PNG"),
    "16-bit tiff": encode(sixteen_bit(), "TIFF"),
}


def labels(answer: dict) -> list[str]:
    return [prediction["label"] for prediction in answer["predictions"]]


def test_answers_ranked_labels_with_model_and_version(service: RunningService) -> None:
    response = service.classify(JPEG)
    answer = response.json()
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert (answer["model"], answer["version"]) == ("aa-cifar100", "1")
    scores = [prediction["score"] for prediction in answer["predictions"]]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    assert 0 < sum(scores) <= 1
    manifest = open_bundle(REPOSITORY / "aa-cifar100" / "1").manifest
    for prediction in answer["predictions"]:
        assert manifest.labels[prediction["class_index"]] == prediction["label"]


@pytest.mark.parametrize("pictures", [PICTURES, GREY_PICTURES], ids=["colour", "grey"])
def test_the_same_picture_in_every_format_gives_the_same_top_1(service: RunningService, pictures: dict) -> None:
    answers = {name: service.classify(image_bytes, top_k=1).json() for name, image_bytes in pictures.items()}
    found = {name: labels(answer)[0] for name, answer in answers.items()}
    assert len(set(found.values())) == 1, found


def test_raw_multipart_and_json_give_the_same_answer(service: RunningService) -> None:
    encoded = base64.b64encode(JPEG).decode()
    answers = [
        service.client.post("/classify", content=JPEG, headers={"Content-Type": "image/jpeg"}),
        service.client.post("/classify", content=JPEG, headers={"Content-Type": "application/octet-stream"}),
        service.client.post("/classify", files={"image": ("rocket.jpg", JPEG, "image/jpeg")}),
        service.client.post("/classify", json={"image": encoded}),
        service.client.post("/classify", json={"image": f"data:image/jpeg;base64,{encoded}"}),
        service.client.post("/classify", json={"image": "\n".join(encoded[i : i + 76] for i in range(0, 2000000, 76))}),
    ]
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    assert len({answer.text for answer in answers}) == 1


def test_a_body_without_a_length_is_read_to_its_end(service: RunningService) -> None:
    chunks = (JPEG[i : i + 1000] for i in range(0, len(JPEG), 1000))
    response = service.client.post("/classify", content=chunks, headers={"Content-Type": "image/jpeg"})
    assert response.status_code == 200


def test_top_k_chooses_how_many_labels(service: RunningService) -> None:
    assert len(service.classify(JPEG, top_k=1).json()["predictions"]) == 1
    everything = service.classify(JPEG, top_k=100).json()["predictions"]
    assert len({prediction["label"] for prediction in everything}) == 100
    assert sum(prediction["score"] for prediction in everything) == pytest.approx(1)


def test_model_and_version_may_be_named(service: RunningService) -> None:
    assert service.classify(JPEG, model="aa-cifar100", version="1").status_code == 200
    for params in ({"model": "resnet"}, {"version": "2"}, {"model": "../aa-cifar100"}):
        response = service.classify(JPEG, **params)
        assert (response.status_code, response.json()["code"]) == (404, "model_not_found")


def test_an_answer_does_not_depend_on_its_batch_mates(service: RunningService) -> None:
    pictures = [path.read_bytes() for path in sorted(EXAMPLES.glob("*.jpg"))]
    alone = [service.classify(picture).json() for picture in pictures]
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        together = list(threads.map(lambda i: service.classify(pictures[i % len(pictures)]).json(), range(64)))
    for i, answer in enumerate(together):
        expected = alone[i % len(pictures)]["predictions"]
        assert labels(answer) == [prediction["label"] for prediction in expected]
        for found, wanted in zip(answer["predictions"], expected, strict=True):
            assert found["score"] == pytest.approx(wanted["score"], abs=1e-4)


def test_transparent_pixels_show_the_background_of_the_manifest(service: RunningService) -> None:
    hidden_red = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    white = Image.new("RGB", (32, 32), (255, 255, 255))
    assert service.classify(encode(hidden_red, "PNG")).json() == service.classify(encode(white, "PNG")).json()


def test_exif_orientation_is_applied(service: RunningService) -> None:
    upright = photograph()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    turned = encode(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    assert service.classify(turned).json() == service.classify(encode(upright, "PNG")).json()


@pytest.mark.skipif(not EXIF_ORIENTATION.is_dir(), reason="the data set exif_orientation is not here")
@pytest.mark.parametrize("shape", ["Landscape", "Portrait"])
def test_all_eight_orientations_of_a_photograph_give_the_same_top_1(service: RunningService, shape: str) -> None:
    paths = sorted(EXIF_ORIENTATION.glob(f"{shape}_*.jpg"))
    assert len(paths) == 9
    found = {path.name: labels(service.classify(path.read_bytes()).json())[0] for path in paths}
    assert len(set(found.values())) == 1, found


def test_request_ids_are_echoed_or_made(service: RunningService) -> None:
    given = service.client.post(
        "/classify", content=JPEG, headers={"X-Request-ID": "order-66", "Content-Type": "image/*"}
    )
    assert given.headers["x-request-id"] == "order-66"
    made = {service.classify(JPEG).headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2
    odd = service.client.post(
        "/classify", content=JPEG, headers={"X-Request-ID": "a b" * 99, "Content-Type": "image/*"}
    )
    assert " " not in odd.headers["x-request-id"]


def test_server_timing_says_where_the_time_went(service: RunningService) -> None:
    timing = service.classify(JPEG).headers["server-timing"]
    stages = {part.split(";dur=")[0]: float(part.split(";dur=")[1]) for part in timing.split(", ")}
    assert list(stages) == ["receive", "decode", "queue", "inference", "total"]
    assert stages["total"] >= stages["decode"] + stages["inference"] > 0


def test_a_very_long_thin_picture_is_answered(service: RunningService) -> None:
    assert service.classify(encode(Image.new("RGB", (30_000, 1)), "PNG")).status_code == 200


def test_openapi_describes_classify(service: RunningService) -> None:
    operation = service.client.get("/openapi.json").json()["paths"]["/classify"]["post"]
    assert {"image/*", "multipart/form-data", "application/json"} <= set(operation["requestBody"]["content"])
    assert {"200", "400", "404", "413", "415", "422", "429", "500", "503", "504"} <= set(operation["responses"])
