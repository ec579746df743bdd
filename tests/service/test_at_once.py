"""A lone row of a quick model, computed in the event loop: when, when not, and what if the call hangs there."""

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from bundle.bundle import open_bundle
from service.decode_pool import DecodePool
from service.errors import InferenceFailed
from service.lanes import Lanes
from service.metrics import Metrics
from service.predictor_lifetime import open_predictor
from service.session import OnnxSession
from service.settings import Settings
from service.ways import AtOnce
from service.workers import HUNG
from tests.held_model import ROW, batching, run, soon
from tests.helpers import running_service, wait_until
from tests.toy_bundles import HANGS, OUT_OF_RANGE, picture, write_fragile_bundle


class Recorder:
    """A model that remembers of each batch how many rows it had and whether the event loop computed it."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, bool]] = []

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.batches.append((len(batch), threading.current_thread() is threading.main_thread()))
        return batch * 2


def computed(*sizes: int, alone: Callable[[], bool] = lambda: True, later: bool = False, delay: float = 0) -> list:
    """The batches of callers who come together with so many rows, or each with one that a lane is to decode."""
    model = Recorder()

    async def scenario() -> None:
        at_once = AtOnce(model, alone)
        async with (
            batching(model, at_once=at_once, lanes=Lanes(1), delay=delay) as batcher,
            asyncio.TaskGroup() as callers,
        ):
            for size in sizes:
                rows = np.repeat(ROW, size, axis=0)
                answer = (
                    batcher.submit_later(lambda: ROW[0], deadline=soon())
                    if later
                    else batcher.submit(rows, deadline=soon())
                )
                callers.create_task(answer)

    run(scenario())
    return model.batches


def test_a_lone_row_is_computed_in_the_event_loop() -> None:
    assert computed(1) == [(1, True)]


@pytest.mark.parametrize("options", [{"alone": lambda: False}, {"later": True}])
def test_a_row_with_company_or_to_be_decoded_is_for_a_lane(options: dict) -> None:
    assert computed(1, **options) == [(1, False)]


def test_several_rows_of_one_caller_are_for_a_lane() -> None:
    assert computed(2) == [(2, False)]


@pytest.mark.parametrize("delay", [0, 0.01])
def test_rows_that_came_together_go_together(delay: float) -> None:
    assert computed(1, 1, delay=delay) == [(2, False)]


@pytest.mark.parametrize(("seconds", "in_the_event_loop"), [(0.0019, True), (0.002, False)])
def test_only_a_quick_model_is_called_in_the_event_loop(
    seconds: float, in_the_event_loop: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    call = OnnxSession.run

    def watched(session: OnnxSession, batch: np.ndarray) -> np.ndarray:
        threads.append(threading.current_thread())
        return call(session, batch)

    async def scenario() -> None:
        settings = Settings(provider="cpu", intra_op_num_threads=1)
        served = open_bundle(write_fragile_bundle(tmp_path))
        async with open_predictor(served, settings, DecodePool(1), Metrics()) as predictor:
            threads.clear()  # those of the start
            with predictor.admission.admit(body_bytes=100, timeout=10):
                await predictor.predict(picture(1), top_k=1, deadline=soon())

    monkeypatch.setattr(OnnxSession, "seconds_of_one_row", lambda session: seconds)
    monkeypatch.setattr(OnnxSession, "run", watched)
    run(scenario())
    assert [thread is threading.main_thread() for thread in threads] == [in_the_event_loop]


def test_the_event_loop_computes_nothing_while_a_lane_does() -> None:
    go = threading.Event()

    def held(batch: np.ndarray) -> np.ndarray:
        assert go.wait(60)
        return model(batch)

    async def scenario() -> None:
        async with batching(held, at_once=AtOnce(model, lambda: True), lanes=Lanes(2)) as batcher:
            first = asyncio.ensure_future(batcher.submit_later(lambda: ROW[0], deadline=soon()))
            while not batcher.computing:
                await asyncio.sleep(0)
            second = asyncio.ensure_future(batcher.submit(ROW, deadline=soon()))
            await asyncio.sleep(0.01)
            assert not model.batches
            go.set()
            await asyncio.gather(first, second)

    model = Recorder()
    run(scenario())
    assert model.batches == [(1, False)] * 2


def test_a_call_that_fails_in_the_event_loop_is_its_callers_failure_alone_and_the_model_is_looked_after() -> None:
    recovered = threading.Event()

    def failing(batch: np.ndarray) -> np.ndarray:
        raise RuntimeError("device lost")

    async def scenario() -> None:
        model = Recorder()
        at_once = AtOnce(failing, lambda: not recovered.is_set())
        async with batching(model, at_once=at_once, recover=recovered.set) as batcher:
            with pytest.raises(InferenceFailed):
                await batcher.submit(ROW, deadline=soon())
            await batcher.submit(ROW, deadline=soon())
            assert recovered.is_set()
            assert model.batches == [(1, False)]

    run(scenario())


def test_the_service_goes_on_after_a_picture_that_the_model_fails_on(tmp_path: Path) -> None:
    write_fragile_bundle(tmp_path)
    with running_service(repository=tmp_path) as service:
        assert service.client.post("/classify", content=picture(OUT_OF_RANGE)).status_code == 500
        assert service.client.post("/classify", content=picture(1)).status_code == 200


def test_a_call_that_hangs_in_the_event_loop_ends_the_process_and_shows_where(tmp_path: Path) -> None:
    write_fragile_bundle(tmp_path)
    with running_service("--model-call-timeout-ms", "1000", repository=tmp_path) as service:
        assert service.client.post("/classify", content=picture(1)).status_code == 200
        time.sleep(1.1)
        assert service.client.post("/classify", content=picture(1)).status_code == 200  # a call that came back is over
        with pytest.raises(httpx.RemoteProtocolError):
            service.client.post("/classify", content=picture(HANGS))
        assert service.process.wait(40) == -signal.SIGALRM
    assert any("run_at_once" in line for line in service.log)


def test_a_worker_that_hangs_in_its_event_loop_is_replaced(tmp_path: Path) -> None:
    write_fragile_bundle(tmp_path)
    with running_service("--model-call-timeout-ms", "1000", "--workers", "2", repository=tmp_path) as service:
        wait_until(lambda: service.client.get("/health/ready").status_code == 200)
        with pytest.raises(httpx.RemoteProtocolError):
            service.client.post("/classify", content=picture(HANGS))
        wait_until(lambda: any("hung; replacing it" in line for line in service.log))
        assert service.client.post("/classify", content=picture(1)).status_code == 200


def test_who_came_while_somebody_was_there_is_for_a_lane_even_if_alone_by_then(tmp_path: Path) -> None:
    write_fragile_bundle(tmp_path)
    body = picture(HANGS)
    head = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n" % len(body)
    with running_service("--model-call-timeout-ms", "1000", repository=tmp_path) as service:
        address = (service.client.base_url.host, service.client.base_url.port)
        with socket.create_connection(address, timeout=60) as second:
            with socket.create_connection(address, timeout=60) as first:
                first.sendall(head)
                wait_until(lambda: service.metric("aaserve_inflight_requests") == 2)  # with the one that asks
                second.sendall(head)
                wait_until(lambda: service.metric("aaserve_inflight_requests") == 3)
            wait_until(lambda: service.metric("aaserve_inflight_requests") == 2)  # the first has left
            second.sendall(body)
            assert second.recv(100).startswith(b"HTTP/1.1 500 ")
        assert service.process.wait(40) == HUNG


def test_with_somebody_else_in_the_service_a_lane_computes_and_a_hang_is_answered(tmp_path: Path) -> None:
    write_fragile_bundle(tmp_path)
    with running_service("--model-call-timeout-ms", "1000", repository=tmp_path) as service:
        address = (service.client.base_url.host, service.client.base_url.port)
        with socket.create_connection(address, timeout=60) as other:
            other.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            wait_until(lambda: service.metric("aaserve_inflight_requests") == 2)  # with the one that asks
            assert service.client.post("/classify", content=picture(HANGS)).status_code == 500
        assert service.process.wait(40) == HUNG
