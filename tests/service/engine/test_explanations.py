"""Explanations beside other requests: attention that fails or differs, their places in the queue, their memory."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from aaserve.service.attention.render import FORMS
from aaserve.service.engine.runtime.session import OnnxSession
from tests.helpers import wait_until
from tests.service.engine.misbehaving import JPEG, PATIENT, classify, serving


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
