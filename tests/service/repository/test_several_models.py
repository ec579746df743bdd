"""Several models of one service under load."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from tests.detector_bundle import write_detector
from tests.service.repository.serving import serving
from tests.toy_bundles import write_fragile_bundle

A, B = 0, 1
FORM, JSON, PNG = "multipart/form-data; boundary=x", "application/json", "image/png"


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, FastAPI]]:
    models = tmp_path_factory.mktemp("several") / "models"
    for name in ("a-model", "b-model"):
        write_fragile_bundle(models, name=name)
    with serving(models) as found:
        yield found


def shed(
    app: FastAPI, url: str, media_type: str, *, full: tuple[int, ...], method: str = "POST", key: str = "key"
) -> int | None:
    """The status of a refusal from the head while the queues of some models are full; None if there is none."""
    head = [(b"content-type", media_type.encode()), (b"authorization", f"Bearer {key}".encode())]

    async def asked() -> int | None:
        refused = app.state.load_shedding.answer(method.encode(), url.encode(), head, None)
        return refused.status if refused else None

    with ExitStack() as stack:
        for index in full:
            admission = app.state.lifecycle.repository.predictors[index].admission
            stack.enter_context(admission.admit(rows=admission.max_rows, timeout=60))
        return asyncio.run(asked())


@pytest.mark.parametrize(
    ("url", "media_type"),
    [
        ("/classify?model=a-model", PNG),
        ("/classify?model=a-model&version=1", FORM),
        ("/classify/batch?model=a-model", JSON),
        ("/explain?model=a-model", PNG),
        ("/predictions/a-model", PNG),
        ("/predictions/a-model/1", FORM),
        ("/v2/models/a-model/infer", JSON),
        ("/v2/models/a-model:pictures/versions/1/infer", "application/octet-stream"),
    ],
)
def test_load_is_shed_while_the_model_that_is_named_has_no_room(
    two_models: tuple[httpx.Client, FastAPI], url: str, media_type: str
) -> None:
    _, app = two_models
    assert shed(app, url, media_type, full=(A,)) == 429
    assert shed(app, url, media_type, full=(B,)) is None
    assert shed(app, url.replace("a-model", "b-model"), media_type, full=(A,)) is None


def test_a_body_that_may_name_a_model_is_refused_while_no_model_has_room(
    two_models: tuple[httpx.Client, FastAPI],
) -> None:
    _, app = two_models
    for media_type in (FORM, JSON):
        found = [shed(app, "/classify", media_type, full=full) for full in ((), (A,), (B,), (A, B))]
        assert found == [None, None, None, 429]


@pytest.mark.parametrize(
    "url",
    [
        "/classify",
        "/classify?model=nobody",
        "/classify?model=a-model&version=7",
        "/detect",
        "/detect?model=a-model",
        "/predictions/a-model:pictures",
        "/" + "x" * 3000,
    ],
)
def test_the_application_answers_what_no_model_can(two_models: tuple[httpx.Client, FastAPI], url: str) -> None:
    _, app = two_models
    assert shed(app, url, PNG, full=(A, B)) is None


def test_the_application_answers_a_method_that_the_address_does_not_take(
    two_models: tuple[httpx.Client, FastAPI],
) -> None:
    _, app = two_models
    assert shed(app, "/classify?model=a-model", PNG, full=(A,), method="PUT") is None
    assert shed(app, "/predictions/a-model", PNG, full=(A,), method="PUT") == 429


def test_bodies_on_their_way_take_room_of_their_own_model_and_at_most_half(
    two_models: tuple[httpx.Client, FastAPI],
) -> None:
    _, app = two_models
    admission = app.state.lifecycle.repository.predictors[A].admission
    admission.arriving += 2 * admission.max_rows  # as a client can bring about that sends half of each body
    try:
        found = []
        for rows in (0, admission.max_rows // 2 - 1, admission.max_rows // 2):
            with admission.admit(rows=rows, timeout=60):
                found.append(shed(app, "/classify?model=a-model", PNG, full=()))
                assert shed(app, "/classify?model=b-model", PNG, full=()) is None
        assert found == [None, None, 429]
    finally:
        admission.arriving -= 2 * admission.max_rows


def test_only_a_request_that_may_be_made_takes_room_and_only_of_the_model_that_would_answer(
    two_models: tuple[httpx.Client, FastAPI],
) -> None:
    _, app = two_models
    a, b = (predictor.admission for predictor in app.state.lifecycle.repository.predictors)

    async def let_in(url: str, media_type: str, key: str = "key") -> tuple[int, int]:
        """Rows that are expected at either model in the same turn."""
        head = [(b"content-type", media_type.encode()), (b"authorization", f"Bearer {key}".encode())]
        assert app.state.load_shedding.answer(b"POST", url.encode(), head, None) is None
        found = a.arriving, b.arriving
        await asyncio.sleep(0)
        assert (a.arriving, b.arriving) == (0, 0)
        return found

    assert asyncio.run(let_in("/classify?model=b-model", PNG)) == (0, 1)
    assert asyncio.run(let_in("/classify?model=b-model", FORM)) == (0, 1)
    assert asyncio.run(let_in("/classify?model=b-model", PNG, key="wrong")) == (0, 0)
    assert asyncio.run(let_in("/classify", FORM)) == (0, 0)  # its body must name one


def test_a_refusal_is_counted_for_the_model_that_is_named(two_models: tuple[httpx.Client, FastAPI]) -> None:
    client, app = two_models
    shed(app, "/classify?model=b-model", PNG, full=(B,))
    assert 'aaserve_requests_total{code="429",endpoint="/classify",model="b-model"} ' in client.get("/metrics").text


def test_a_drawn_answer_is_refused_when_drawn_ones_have_no_more_places(tmp_path: Path) -> None:
    write_detector(tmp_path / "models")
    with serving(tmp_path / "models") as (_, app):
        [predictor] = app.state.lifecycle.repository.predictors

        async def asked(accept: str) -> int | None:
            head = [(b"authorization", b"Bearer key"), (b"accept", accept.encode())]
            refused = app.state.load_shedding.answer(b"POST", b"/detect", head, None)
            return refused.status if refused else None

        slow = 1 + predictor.admission.max_rows // 4
        with predictor.admission.admit(rows=slow, timeout=60, slow=True):
            found = [asyncio.run(asked(accept)) for accept in (PNG, "image/png, */*;q=0.1", JSON, "*/*", "text/css")]
        assert found == [429, 429, None, None, None]
