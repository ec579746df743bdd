"""TorchServe's addresses over a socket."""

import pytest

from tests.helpers import EXAMPLES, RunningService

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
ADDRESS = "/predictions/aa-cifar100"


@pytest.mark.parametrize("path", [ADDRESS, ADDRESS + "/1"])
@pytest.mark.parametrize(
    "request_",
    [
        ("PUT", {"content": JPEG}),
        ("POST", {"content": JPEG}),
        ("POST", {"content": JPEG, "headers": {"Content-Type": "application/x-www-form-urlencoded"}}),
        ("POST", {"files": {"data": JPEG}}),
    ],
    ids=["curl -T", "raw", "curl --data-binary", "curl -F data=@"],
)
def test_a_picture_gets_classifys_scores_by_label(service: RunningService, path: str, request_: tuple) -> None:
    method, content = request_
    expected = {each["label"]: each["score"] for each in service.classify(JPEG).json()["predictions"]}
    response = service.client.request(method, path, **content)
    assert response.status_code == 200
    assert list(response.json().items()) == list(expected.items())


def test_ping(service: RunningService) -> None:
    assert service.client.get("/ping").json() == {"status": "Healthy"}


@pytest.mark.parametrize(
    ("path", "content", "status", "kind"),
    [
        ("/predictions/nope", {"content": JPEG}, 404, "ModelNotFoundException"),
        (ADDRESS + "/2", {"content": JPEG}, 404, "ModelNotFoundException"),
        ("/predictions", {"content": JPEG}, 404, "ResourceNotFoundException"),
        ("/ping", {"content": b""}, 405, "MethodNotAllowedException"),
        (ADDRESS, {"content": b""}, 400, "BadRequestException"),
        (ADDRESS, {"content": JPEG[:3000]}, 400, "BadRequestException"),
        (ADDRESS, {"files": {"body": JPEG}}, 400, "BadRequestException"),
        (ADDRESS, {"content": b"text"}, 415, "UnsupportedMediaTypeException"),
        (ADDRESS, {"content": bytes(11_000_000)}, 413, "RequestEntityTooLargeException"),
    ],
)
def test_errors_have_torchserves_shape(
    service: RunningService, path: str, content: dict, status: int, kind: str
) -> None:
    response = service.client.post(path, **content)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"code", "type", "message"}
    assert (response.json()["code"], response.json()["type"]) == (status, kind)
