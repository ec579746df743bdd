"""What only a broken model shows: the application over a socket, with a session that misbehaves."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI

from service.app import create_app
from service.errors import StartFailed
from service.session import OnnxSession
from service.settings import Settings
from tests.helpers import EXAMPLES, REPOSITORY, wait_until

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()


@contextmanager
def serving(**options: object) -> Iterator[tuple[httpx.Client, FastAPI]]:
    app = create_app(Settings(port=0, repository=REPOSITORY, **options))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        wait_until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            app.state.server = server
            yield client, app
    finally:
        server.should_exit = True
        thread.join(20)


def classify(client: httpx.Client) -> httpx.Response:
    return client.post("/classify", content=JPEG, headers={"Content-Type": "image/jpeg"})


def test_not_ready_while_warming_up_yet_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    warm_up = OnnxSession.warm_up
    monkeypatch.setattr(OnnxSession, "warm_up", lambda *arguments: go.wait(10) and warm_up(*arguments))
    with serving() as (client, _):
        assert client.get("/health/live").json() == {"state": "starting"}
        for response in (client.get("/health/ready"), classify(client)):
            assert (response.status_code, response.json()["code"]) == (503, "not_ready")
            assert int(response.headers["retry-after"]) >= 1
        go.set()
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        assert classify(client).status_code == 200


def test_a_model_that_cannot_warm_up_is_reported_and_stops_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    def warm_up(*_: object) -> None:
        raise StartFailed("model.onnx: warm-up at batch 8 failed")

    monkeypatch.setattr(OnnxSession, "warm_up", warm_up)
    with serving() as (client, app):
        wait_until(lambda: app.state.lifecycle.failure)
        assert app.state.lifecycle.failure == "model.onnx: warm-up at batch 8 failed"
        assert client.get("/health/live").status_code == 503
        assert client.get("/health/ready").json()["code"] == "not_ready"


def test_a_model_call_that_raises_is_500_without_its_words(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving() as (client, _):
        wait_until(lambda: client.get("/health/ready").status_code == 200)

        def run(*_: object) -> None:
            raise RuntimeError("CUDA failure 700 at 0x7f00")

        with monkeypatch.context() as broken:
            broken.setattr(OnnxSession, "run", run)
            response = classify(client)
        assert (response.status_code, response.json()["code"]) == (500, "internal")
        assert "CUDA" not in response.text
        wait_until(lambda: "CUDA failure 700" in caplog.text)  # the operator's log has them
        wait_until(lambda: response.headers["x-request-id"] in caplog.text)
        wait_until(lambda: classify(client).status_code == 200)


def test_logits_that_are_no_numbers_are_500(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as (client, _):
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        monkeypatch.setattr(OnnxSession, "run", lambda _, batch: np.full((len(batch), 100), np.nan, np.float32))
        assert classify(client).json()["code"] == "internal"


def test_a_bug_in_a_route_is_500_with_a_request_id_and_a_metric(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving() as (client, _):
        wait_until(lambda: client.get("/health/ready").status_code == 200)

        def rank(*_: object) -> None:
            raise KeyError("secret")

        with monkeypatch.context() as broken:
            broken.setattr("service.predictor.rank", rank)
            response = classify(client)
        assert response.status_code == 500
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["request_id"] == response.headers["x-request-id"]
        assert "secret" not in response.text
        wait_until(lambda: "secret" in caplog.text)
        wait_until(lambda: 'code="500",endpoint="/classify"' in client.get("/metrics").text)


def test_a_session_that_dies_with_no_memory_left_for_another_ends_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as (client, app):
        wait_until(lambda: client.get("/health/ready").status_code == 200)

        def run(*_: object) -> None:
            raise RuntimeError("CUDA failure 700")

        def open_bundle(_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(OnnxSession, "run", run)
        monkeypatch.setattr("service.model_runner.open_bundle", open_bundle)
        assert classify(client).status_code == 500
        wait_until(lambda: app.state.lifecycle.failure)
        assert app.state.lifecycle.failure == "aa-cifar100 died and could not be opened again: MemoryError()"
        assert client.get("/health/live").status_code == 503


def test_a_bug_in_the_batcher_ends_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    def take(*_: object) -> None:
        raise KeyError("a bug")

    with serving() as (client, app):
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        monkeypatch.setattr("service.row_queue.RowQueue.take", take)
        assert classify(client).status_code == 500
        wait_until(lambda: app.state.lifecycle.failure)
        assert client.get("/health/live").status_code == 503
