"""What the tests of detection ask the model that finds the coloured areas of a picture."""

from typing import Any

import httpx

from tests.detector_bundle import coloured_png
from tests.helpers import RunningService

WIDTH, HEIGHT = 640, 480
RED, BLUE = (100, 60, 300, 200), (400, 300, 640, 480)
PNG = coloured_png(WIDTH, HEIGHT, red=(RED, 204), blue=(BLUE, 255))
CLASSIFIER = "fragile"


def detect(service: RunningService, image: bytes = PNG, **params: Any) -> httpx.Response:
    return service.client.post(
        "/detect", content=image, params=params, headers={"Content-Type": "application/octet-stream"}
    )


def refused(response: httpx.Response) -> tuple[int, str, str]:
    return response.status_code, response.json()["code"], response.json()["detail"]
