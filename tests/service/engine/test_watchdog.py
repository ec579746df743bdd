"""A model call that does not come back: noticed, shown, and the process ends."""

import asyncio
import concurrent.futures
import socket
from pathlib import Path

import httpx

from aaserve.service.engine.runtime.watchdog import Watchdog
from aaserve.service.process.supervisor import HUNG
from tests.helpers import running_service, slow_body_service, wait_until
from tests.toy_bundles import HANGS, OUT_OF_RANGE, picture, write_fragile_bundle
from tests.virtual_time import VirtualLoop, run_in_virtual_time


def seconds_until_overdue(calls: list[float]) -> float | None:
    """When the watchdog of a second barks, if ever, while calls of so many seconds follow each other."""

    async def scenario(loop: VirtualLoop) -> float | None:
        watchdog = Watchdog(1.0)

        async def work() -> None:
            for seconds in calls:
                with watchdog.watching():
                    await asyncio.sleep(seconds)
                await asyncio.sleep(0.001)

        working, overdue = asyncio.ensure_future(work()), asyncio.ensure_future(watchdog.overdue())
        await asyncio.wait((working, overdue), return_when=asyncio.FIRST_COMPLETED)
        found = loop.time() if overdue.done() else None
        for task in (working, overdue):
            task.cancel()
        return found

    return run_in_virtual_time(scenario)


def test_a_call_that_takes_too_long_is_noticed_in_time() -> None:
    assert 1.0 <= seconds_until_overdue([1000.0]) <= 1.1
    assert 1.0 <= seconds_until_overdue([0.5, 1000.0]) - 0.501 <= 1.1


def test_calls_that_come_back_are_not_however_many_there_are() -> None:
    assert seconds_until_overdue([0.95] * 100 + [0.01] * 100) is None


def test_a_call_that_hangs_is_noticed_though_others_come_back_beside_it() -> None:
    async def scenario(loop: VirtualLoop) -> float:
        watchdog = Watchdog(1.0)

        async def lane(seconds: float) -> None:
            while True:
                with watchdog.watching():
                    await asyncio.sleep(seconds)

        lanes = [asyncio.ensure_future(lane(seconds)) for seconds in (0.01, 1000)]
        await watchdog.overdue()
        for working in lanes:
            working.cancel()
        return loop.time()

    assert 1.0 <= run_in_virtual_time(scenario) <= 1.1


def test_a_hung_model_turns_liveness_red_and_ends_the_process(tmp_path: Path) -> None:
    write_fragile_bundle(tmp_path)
    write_fragile_bundle(tmp_path, name="other")
    options = ("--model-call-timeout-ms", "1000")
    with (
        slow_body_service(*options, repository=tmp_path) as service,
        concurrent.futures.ThreadPoolExecutor() as threads,
    ):
        live = f"{service.client.base_url}/health/live"
        address = (service.client.base_url.host, service.client.base_url.port)
        with socket.create_connection(address, timeout=60) as slow:  # keeps the other model busy meanwhile
            slow.sendall(b"POST /classify?model=other HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            wait_until(lambda: service.metric("aaserve_inflight_requests") == 1)
            hung = threads.submit(service.client.post, "/classify?model=fragile", content=picture(HANGS, side=100))
            assert hung.result().status_code == 500  # its deadline would have been later
            wait_until(lambda: httpx.get(live, timeout=60).json() == {"state": "failed"})
            assert httpx.get(live, timeout=60).status_code == 503
        # the process ends once the other model has nothing to answer any more
        assert service.process.wait(60) == HUNG
    assert "error: fragile: a model call took more than 1 s\n" in service.log


def test_a_model_that_hangs_does_not_keep_a_process_that_stops(tmp_path: Path) -> None:
    write_fragile_bundle(tmp_path)
    options = ("--model-call-timeout-ms", "4000", "--request-timeout-ms", "2000")
    with running_service(*options, repository=tmp_path) as service:
        assert service.client.post("/classify", content=picture(HANGS, side=100)).status_code == 504
        assert service.stop() == HUNG
        wait_until(lambda: any(line.startswith("error: ") for line in service.log))


def test_the_service_goes_on_after_a_picture_that_the_model_fails_on(tmp_path: Path) -> None:
    write_fragile_bundle(tmp_path)
    with running_service(repository=tmp_path) as service:
        assert service.client.post("/classify", content=picture(OUT_OF_RANGE)).status_code == 500
        assert service.client.post("/classify", content=picture(1)).status_code == 200


def test_a_worker_whose_model_hangs_is_replaced(tmp_path: Path) -> None:
    write_fragile_bundle(tmp_path)
    with running_service("--model-call-timeout-ms", "1000", "--workers", "2", repository=tmp_path) as service:
        wait_until(lambda: sum(line.rstrip().endswith(" ready") for line in service.log) == 2)
        assert service.client.post("/classify", content=picture(HANGS)).status_code == 500
        wait_until(lambda: any("hung; replacing it" in line for line in service.log))
        assert service.client.post("/classify", content=picture(1)).status_code == 200
