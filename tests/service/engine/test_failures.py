"""What only a broken model shows: the application over a socket, with a session that misbehaves."""

import threading
from pathlib import Path

import numpy as np
import pytest

from aaserve.bundle.bundle import Bundle
from aaserve.service.engine.runtime.session import OnnxSession
from aaserve.service.errors import StartFailed
from aaserve.service.http.app import create_app
from aaserve.service.settings import Settings
from tests.helpers import served, wait_until
from tests.service.engine.misbehaving import JPEG, classify, serving
from tests.toy_bundles import write_fragile_bundle


def test_not_ready_while_warming_up_yet_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    warm_up = OnnxSession.warm_up
    monkeypatch.setattr(OnnxSession, "warm_up", lambda *arguments: go.wait(60) and warm_up(*arguments))
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
        monkeypatch.setattr(
            OnnxSession, "run", lambda _, batch, names: {"logits": np.full((len(batch), 100), np.nan, np.float32)}
        )
        assert classify(client).json()["code"] == "internal"


def test_on_a_gpu_there_is_one_inference_thread_and_pictures_are_decoded_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the service does then, with a session on the CPU that says it is on none."""
    opened = OnnxSession.__init__

    def elsewhere(session: OnnxSession, *arguments: object, **options: object) -> None:
        opened(session, *arguments, **options, fixed_shapes=False)  # type: ignore[arg-type]
        session.on_cpu = False

    monkeypatch.setattr(OnnxSession, "__init__", elsewhere)
    with serving(intra_op_num_threads=2) as (client, _):
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        assert classify(client).json()["predictions"]
        names = [thread.name for thread in threading.enumerate()]
        assert [name for name in names if name.startswith("inference")] == ["inference_0"]
        assert [name for name in names if name.startswith("decode")]
        bad = client.post("/classify", content=JPEG[:300], headers={"Content-Type": "image/jpeg"})
        assert bad.json()["code"] == "invalid_image"


def test_a_bug_in_a_route_is_500_with_a_request_id_and_a_metric(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving() as (client, _):
        wait_until(lambda: client.get("/health/ready").status_code == 200)

        def rank(*_: object) -> None:
            raise KeyError("secret")

        with monkeypatch.context() as broken:
            broken.setattr("aaserve.service.http.routes.classify.rank", rank)
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

        def content(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(OnnxSession, "run", run)
        monkeypatch.setattr(Bundle, "content", content)
        assert classify(client).status_code == 500
        wait_until(lambda: app.state.lifecycle.failure)
        assert app.state.lifecycle.failure == "aa-cifar100 died and could not be opened again: MemoryError()"
        assert client.get("/health/live").status_code == 503


def test_a_dead_session_is_not_reopened_from_a_bundle_that_was_replaced_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_fragile_bundle(tmp_path)
    app = create_app(Settings(repository=tmp_path, provider="cpu"))
    with served(app) as (client, _):
        wait_until(lambda: client.get("/health/ready").status_code == 200)

        def run(*_: object) -> None:
            raise RuntimeError("CUDA failure 700")

        write_fragile_bundle(tmp_path, ballast_bytes=1000)  # never tried, and perhaps of other labels
        monkeypatch.setattr(OnnxSession, "run", run)
        assert classify(client).status_code == 500
        wait_until(lambda: app.state.lifecycle.failure)
        assert "fragile died and could not be opened again: " in app.state.lifecycle.failure
        assert "model.onnx: expected sha256" in app.state.lifecycle.failure


def test_a_bug_in_the_batcher_ends_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    def take(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    with serving() as (client, app):
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        monkeypatch.setattr("aaserve.service.engine.queueing.queue.RowQueue.take", take)
        assert classify(client).status_code == 500
        wait_until(lambda: app.state.lifecycle.failure)
        assert client.get("/health/live").status_code == 503
