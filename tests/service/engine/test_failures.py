"""What only a broken model shows: the application over a socket, with a session that misbehaves."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from aaserve.bundle.bundle import Bundle
from aaserve.service.attention.render import FORMS
from aaserve.service.engine.runtime.session import OnnxSession
from aaserve.service.errors import StartFailed
from aaserve.service.http.app import create_app
from aaserve.service.settings import Settings
from tests.helpers import EXAMPLES, REPOSITORY, served, wait_until
from tests.toy_bundles import write_fragile_bundle

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
PATIENT = {"request_timeout_ms": 60_000, "model_call_timeout_ms": 600_000}  # while a call is held


@contextmanager
def serving(**options: object) -> Iterator[tuple[httpx.Client, FastAPI]]:
    app = create_app(Settings(port=0, repository=REPOSITORY, **options))
    with served(app) as (client, server):
        app.state.server = server
        yield client, app


def classify(client: httpx.Client) -> httpx.Response:
    return client.post("/classify", content=JPEG, headers={"Content-Type": "image/jpeg"})


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


def explain(client: httpx.Client, **headers: str) -> httpx.Response:
    return client.post("/explain", content=JPEG, headers={"Content-Type": "image/jpeg", **headers})


def of_attention(names: tuple[str, ...] = ()) -> bool:
    return any(name.startswith("attention.") for name in names)


def test_attention_that_fails_is_500_and_the_model_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    run = OnnxSession.run
    with serving() as (client, _):
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        for fault in (RuntimeError("out of memory"), np.nan):

            def damaged(
                session: OnnxSession, batch: np.ndarray, names: tuple[str, ...] = (), fault: object = fault
            ) -> dict[str, np.ndarray]:
                outputs = run(session, batch, names)
                if of_attention(names):
                    if isinstance(fault, Exception):
                        raise fault
                    outputs = {name: values * fault for name, values in outputs.items()}
                return outputs

            with monkeypatch.context() as broken:
                broken.setattr(OnnxSession, "run", damaged)
                response = explain(client)
            assert (response.status_code, response.json()["code"]) == (500, "internal")
            wait_until(lambda: classify(client).status_code == 200)
            assert explain(client).status_code == 200


@pytest.mark.parametrize("damage", [lambda maps: maps[:, :, ::-1], lambda maps: maps * np.nan], ids=["turned", "NaN"])
def test_attention_to_the_probe_that_differs_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, damage: Callable[[np.ndarray], np.ndarray]
) -> None:
    run = OnnxSession.run

    def damaged(*arguments: Any) -> dict[str, np.ndarray]:
        outputs = run(*arguments)
        return {name: damage(values) if of_attention((name,)) else values for name, values in outputs.items()}

    monkeypatch.setattr(OnnxSession, "run", damaged)
    with serving() as (_, app):
        wait_until(lambda: app.state.lifecycle.failure)
        assert "expected the stored attention to the probe within 1e-03" in app.state.lifecycle.failure


def test_an_explanation_takes_a_place_in_the_queue_and_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    run, begun, go = OnnxSession.run, threading.Event(), threading.Event()

    def held(*arguments: Any) -> dict[str, np.ndarray]:
        begun.set()
        assert go.wait(60)
        return run(*arguments)

    with serving(max_queue_size=1) as (client, app), ThreadPoolExecutor(2) as threads:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        monkeypatch.setattr(OnnxSession, "run", held)
        first = threads.submit(explain, client)
        assert begun.wait(60)
        late = explain(client, **{"X-Request-Timeout-Ms": "50"})
        assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
        second = threads.submit(explain, client)
        [predictor] = app.state.lifecycle.repository.predictors
        wait_until(lambda: predictor.admission.refusal(timeout=10))
        for ask in (explain, classify):
            refused = ask(client)
            assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
        go.set()
        assert [done.result().status_code for done in (first, second)] == [200, 200]


def test_explanations_have_a_part_of_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    run, begun, go = OnnxSession.run, threading.Event(), threading.Event()

    def held(session: OnnxSession, batch: np.ndarray, names: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
        if of_attention(names):
            begun.set()
            assert go.wait(60)
        return run(session, batch, names)

    with (
        serving(max_queue_size=8, intra_op_num_threads=2, **PATIENT) as (client, app),
        ThreadPoolExecutor(3) as threads,
    ):
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        monkeypatch.setattr(OnnxSession, "run", held)
        asked = [threads.submit(explain, client) for _ in range(3)]
        assert begun.wait(60)
        [predictor] = app.state.lifecycle.repository.predictors
        wait_until(lambda: predictor.admission.slow_rows == 3)
        refused = explain(client)
        assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
        assert "/explain" in refused.json()["detail"]
        assert classify(client).status_code == 200
        go.set()
        assert [done.result().status_code for done in asked] == [200] * 3


def test_one_explanation_is_computed_and_drawn_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps are large: however many ask, memory holds those of one."""
    drawing, go, computed = threading.Event(), threading.Event(), []
    run, draw = OnnxSession.run, FORMS["image/png"]

    def counted(session: OnnxSession, batch: np.ndarray, names: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
        if of_attention(names):
            computed.append(drawing.is_set() and not go.is_set())
        return run(session, batch, names)

    def held(*arguments: object) -> bytes:
        drawing.set()
        assert go.wait(60)
        return draw(*arguments)  # type: ignore[arg-type]

    with serving(decode_threads=4, **PATIENT) as (client, _), ThreadPoolExecutor(3) as threads:
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        monkeypatch.setattr(OnnxSession, "run", counted)
        monkeypatch.setitem(FORMS, "image/png", held)
        answers = [threads.submit(explain, client, Accept="image/png") for _ in range(3)]
        assert drawing.wait(60)
        # The others are decoded; an ordinary request still finds the model free.
        wait_until(lambda: 'outcome="decoded"} 3.0' in client.get("/metrics").text)
        assert classify(client).status_code == 200
        go.set()
        assert [answer.result().status_code for answer in answers] == [200, 200, 200]
        assert computed == [False, False, False]
