"""Sessions of a model on CPUs: one of one thread for all lanes, and one of all threads where that pays."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from aaserve.bundle.bundle import Bundle, open_bundle
from aaserve.service.engine.runtime.runner import ModelRunner
from aaserve.service.engine.runtime.session import OnnxSession
from aaserve.service.errors import StartFailed
from aaserve.service.settings import Settings
from tests.helpers import EXAMPLES, REPOSITORY, running_service

SHIPPED = REPOSITORY / "aa-cifar100" / "1"
SETTINGS = Settings(provider="cpu", max_batch_size=4)


def settings(threads: int) -> Settings:
    return SETTINGS.model_copy(update={"intra_op_num_threads": threads})


class Sessions:
    """Opens real ones and remembers of how many threads; their speed is made up, in seconds by threads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]) -> None:
        self.opened: list[int] = []
        self.used: list[int] = []
        self.dead = False
        run = OnnxSession.run

        def watched(session: OnnxSession, *arguments: Any) -> dict[str, np.ndarray]:
            self.used.append(session._threads)
            if self.dead:
                raise RuntimeError("dead")
            return run(session, *arguments)

        monkeypatch.setattr(OnnxSession, "run", watched)
        monkeypatch.setattr(OnnxSession, "seconds_of_one_row", lambda session: seconds[session._threads])

    def open(self, served: Bundle, threads: int) -> OnnxSession:
        self.dead = False
        self.opened.append(threads)
        return OnnxSession(served, SETTINGS, threads=threads)

    def runner(self, threads: int = 2) -> ModelRunner:
        return ModelRunner(open_bundle(SHIPPED), self.open, settings(threads), lambda: None)


@pytest.fixture
def rows() -> np.ndarray:
    manifest = open_bundle(SHIPPED).manifest
    return np.random.default_rng(0).integers(0, 256, (4, *manifest.input.shape)).astype(manifest.input.dtype)


@pytest.mark.parametrize(
    ("threads", "seconds", "opened", "speedup"),
    [
        (2, {1: 0.04, 2: 0.025}, [1, 2], 1.6),
        (2, {1: 0.04, 2: 0.039}, [1, 2], 1.0),  # tried, and not worth its memory
        (2, {1: 0.002, 2: 0.001}, [1], 1.0),  # a short call
        (1, {1: 0.04}, [1], 1.0),
    ],
)
def test_a_second_session_is_kept_where_one_row_takes_long_and_all_threads_are_faster(
    monkeypatch: pytest.MonkeyPatch,
    rows: np.ndarray,
    threads: int,
    seconds: dict[int, float],
    opened: list[int],
    speedup: float,
) -> None:
    sessions = Sessions(monkeypatch, seconds)
    runner = sessions.runner(threads)
    assert (sessions.opened, runner.lanes) == (opened, threads)
    assert runner.speedup == pytest.approx(speedup)
    sessions.used.clear()
    side_by_side, wide = runner.run(rows)["logits"], runner.run(rows[:1], all_cores=True)["logits"]
    assert sessions.used == [1, 2 if speedup > 1 else 1]
    np.testing.assert_allclose(wide, side_by_side[:1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("seconds", "together"), [(0.001, 4), (0.009, 2), (0.011, 1), (0.5, 1)])
def test_as_many_rows_go_together_as_take_20_ms(monkeypatch: pytest.MonkeyPatch, seconds: float, together: int) -> None:
    assert Sessions(monkeypatch, {1: seconds, 2: seconds}).runner().max_rows == together


def test_both_sessions_are_opened_again_when_they_die(monkeypatch: pytest.MonkeyPatch, rows: np.ndarray) -> None:
    sessions = Sessions(monkeypatch, {1: 0.04, 2: 0.025})
    runner = sessions.runner()
    runner.recover()
    assert sessions.opened == [1, 2]  # both alive: nothing to do
    sessions.dead = True
    runner.recover()
    assert sessions.opened == [1, 2, 1, 2]
    assert runner.run(rows, all_cores=True)["logits"].shape == runner.run(rows)["logits"].shape


def test_a_bundle_with_a_normalisation_of_0_to_255_is_served_and_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shipped = open_bundle(SHIPPED)
    strange = shipped.manifest.preprocessing.model_copy(update={"mean": (123.7, 116.3, 103.5)})
    manifest = shipped.manifest.model_copy(update={"preprocessing": strange})
    sessions = Sessions(monkeypatch, {1: 0.001})
    ModelRunner(Bundle(shipped.folder, manifest, shipped.manifest_sha256), sessions.open, settings(1), lambda: None)
    assert "these look like values for 0..255" in caplog.text
    caplog.clear()
    sessions.runner(1)
    assert caplog.text == ""


def test_a_second_session_that_cannot_be_opened_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(monkeypatch, {1: 0.04, 2: 0.025})

    def open_one(served: Bundle, threads: int) -> OnnxSession:
        if threads > 1:
            raise StartFailed("no memory")
        return sessions.open(served, threads)

    with pytest.raises(StartFailed):
        ModelRunner(open_bundle(SHIPPED), open_one, settings(2), lambda: None)


def test_threads_that_share_a_session_get_the_answers_of_each_row_alone(rows: np.ndarray) -> None:
    session = OnnxSession(open_bundle(SHIPPED), SETTINGS)
    alone = [session.run(row[np.newaxis])["logits"][0] for row in rows]
    found: list[bool] = []

    def lane(size: int) -> None:
        for _ in range(20):
            for first in range(0, len(rows), size):
                answers = session.run(rows[first : first + size])["logits"]
                found.append(all(np.array_equal(a, b) for a, b in zip(answers, alone[first:], strict=False)))

    lanes = [threading.Thread(target=lane, args=(size,)) for size in (1, 2, 4)]
    for thread in lanes:
        thread.start()
    for thread in lanes:
        thread.join()
    assert len(found) == 20 * (4 + 2 + 1)
    assert all(found)


def test_the_service_makes_its_batches_no_longer_and_says_so() -> None:
    with running_service("--cpu-batch-ms", "0") as service, ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(service.classify, [(EXAMPLES / "cat.jpg").read_bytes()] * 24))
        assert {answer.status_code for answer in answers} == {200}
        assert service.metric("aaserve_batch_size_bucket", le="1.0") == 24
        config = service.client.get("/v2/models/aa-cifar100/config").json()
        assert config["dynamic_batching"]["preferred_batch_size"] == [1]
