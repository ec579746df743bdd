"""Drawing takes memory and time: one picture at a time, off the event loop, in a part of the places of the queue."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from aaserve.service.http.app import create_app
from aaserve.service.http.routes import detect as route
from aaserve.service.settings import Settings
from tests.detector_bundle import coloured_png, write_detector
from tests.helpers import served, wait_until

PNG = coloured_png(640, 480, red=((100, 60, 300, 200), 255))
PLACES = 3  # of 8: one that is drawn, and a quarter


class Held:
    """Drawing that waits until it may go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go, self.threads = threading.Event(), threading.Event(), set[str]()
        self.at_once, self.most = 0, 0
        draw = route.draw

        def held(*arguments: Any, **options: Any) -> bytes:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            self.threads.add(threading.current_thread().name)
            self.begun.set()
            assert self.go.wait(60)
            self.at_once -= 1
            return draw(*arguments, **options)

        monkeypatch.setattr(route, "draw", held)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[httpx.Client, FastAPI]]:
    write_detector(tmp_path)
    patient = {"request_timeout_ms": 60_000, "decode_threads": 4, "intra_op_num_threads": 2}
    app = create_app(Settings(port=0, repository=tmp_path, max_queue_size=8, **patient))
    with served(app) as (client, _):
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        yield client, app


def detect(client: httpx.Client, accept: str = "image/png", **headers: str) -> httpx.Response:
    return client.post("/detect", content=PNG, headers={"Content-Type": "image/png", "Accept": accept, **headers})


def test_pictures_are_drawn_one_after_the_other_while_others_are_answered(
    service: tuple[httpx.Client, FastAPI], monkeypatch: pytest.MonkeyPatch
) -> None:
    (client, app), held = service, Held(monkeypatch)
    [predictor] = app.state.lifecycle.repository.predictors
    with ThreadPoolExecutor(PLACES) as threads:
        asked = [threads.submit(detect, client) for _ in range(PLACES)]
        assert held.begun.wait(60)
        wait_until(lambda: predictor.admission.slow_rows == PLACES)
        assert detect(client, "application/json").status_code == 200
        refused = detect(client)
        assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
        assert "drawn images" in refused.json()["detail"]
        held.go.set()
        assert [done.result().status_code for done in asked] == [200] * PLACES
    assert held.most == 1
    assert all("decode" in name for name in held.threads)


def test_a_picture_that_waits_to_be_drawn_has_a_deadline(
    service: tuple[httpx.Client, FastAPI], monkeypatch: pytest.MonkeyPatch
) -> None:
    (client, _), held = service, Held(monkeypatch)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(detect, client)
        assert held.begun.wait(60)
        late = detect(client, **{"X-Request-Timeout-Ms": "300"})
        assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
        held.go.set()
        assert first.result().status_code == 200
