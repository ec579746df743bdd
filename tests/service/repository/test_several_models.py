"""Several models of one service under load."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from fastapi import FastAPI

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


def shed(app: FastAPI, url: str, media_type: str, *, full: tuple[int, ...]) -> int | None:
    """The status of a refusal from the head while the queues of some models are full; None if there is none."""
    head = [(b"content-type", media_type.encode()), (b"authorization", b"Bearer key")]

    async def asked() -> int | None:
        refused = app.state.load_shedding.answer(b"POST", url.encode(), head, None)
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


@pytest.mark.parametrize("url", ["/classify", "/classify?model=nobody", "/classify?model=a-model&version=7", "/detect"])
def test_the_application_answers_what_no_model_can(two_models: tuple[httpx.Client, FastAPI], url: str) -> None:
    _, app = two_models
    assert shed(app, url, PNG, full=(A, B)) is None


def test_bodies_on_their_way_to_one_model_take_no_room_of_another(two_models: tuple[httpx.Client, FastAPI]) -> None:
    _, app = two_models
    admission = app.state.lifecycle.repository.predictors[A].admission
    admission.arriving += admission.max_rows
    try:
        assert shed(app, "/classify?model=a-model", PNG, full=()) == 429
        assert shed(app, "/classify?model=b-model", PNG, full=()) is None
    finally:
        admission.arriving -= admission.max_rows


def test_a_refusal_is_counted_for_the_model_that_is_named(two_models: tuple[httpx.Client, FastAPI]) -> None:
    client, app = two_models
    shed(app, "/classify?model=b-model", PNG, full=(B,))
    assert 'aaserve_requests_total{code="429",endpoint="/classify",model="b-model"} ' in client.get("/metrics").text
