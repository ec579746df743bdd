"""Several processes on one port: one truth in the metrics, and none that is missed when it dies."""

import concurrent.futures
import os
import shutil
import signal
from pathlib import Path

import httpx
import pytest

from service.settings import Settings
from tests.helpers import EXAMPLES, REPOSITORY, RunningService, held_service, running_service, wait_until

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs Linux's /proc")


def children(process_id: int) -> list[int]:
    text = Path(f"/proc/{process_id}/task/{process_id}/children").read_text()
    return [int(child) for child in text.split()]


def all_ready(service: RunningService) -> bool:
    """Whether every worker has said so."""
    return sum("ready" in line for line in service.log) >= 2


def test_metrics_are_one_truth_whichever_worker_is_asked() -> None:
    with running_service("--workers", "2") as service:
        wait_until(lambda: all_ready(service))
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: classify_on_its_own(service), range(40)))
        assert {answer.status_code for answer in answers} == {200}
        for _ in range(6):  # of either worker
            text = httpx.get(f"{service.client.base_url}/metrics").text
            assert 'aaserve_requests_total{code="200",endpoint="/classify",model="aa-cifar100"} 40.0' in text
            assert "pid=" not in text
            assert 'aaserve_queue_capacity{model="aa-cifar100"} 256.0' in text
            assert 'aaserve_queue_depth{model="aa-cifar100"} 0.0' in text
            assert 'aaserve_model_ready{model="aa-cifar100",version="1"} 1.0' in text


def test_a_scrape_does_not_count_those_before_it_as_in_flight() -> None:
    with running_service("--workers", "2") as service:
        wait_until(lambda: all_ready(service))
        url = f"{service.client.base_url}/metrics"

        def told() -> list[str]:
            return [httpx.get(url).text.split("\naaserve_inflight_requests ")[1].split("\n")[0] for _ in range(20)]

        # Each worker writes once a second too, and may do so before an end: often, if the machine is slow at the time.
        wait_until(lambda: told().count("1.0") >= 18)


def test_a_worker_that_is_killed_is_replaced_and_nobody_else_notices() -> None:
    with running_service("--workers", "2") as service:
        wait_until(lambda: all_ready(service))
        for _ in range(10):
            assert classify_on_its_own(service).status_code == 200
        [first, second] = children(service.process.pid)
        os.kill(first, signal.SIGKILL)
        for _ in range(20):  # while one is missing
            assert classify_on_its_own(service).status_code == 200
        wait_until(lambda: len(set(children(service.process.pid)) - {first, second}) == 1)
        wait_until(lambda: sum("ready" in line for line in service.log) >= 3)
        os.kill(second, signal.SIGKILL)  # so that the replacement has to answer
        assert classify_on_its_own(service).status_code == 200
        text = httpx.get(f"{service.client.base_url}/metrics").text
        assert 'aaserve_requests_total{code="200",endpoint="/classify",model="aa-cifar100"} 31.0' in text
        assert 'aaserve_queue_capacity{model="aa-cifar100"}' in text


def test_sigterm_reaches_all_workers_and_all_that_was_accepted_is_answered() -> None:
    with (
        held_service("--workers", "2", seconds=4) as service,
        concurrent.futures.ThreadPoolExecutor() as threads,
    ):
        wait_until(lambda: all_ready(service))
        workers = children(service.process.pid)
        accepted = [threads.submit(classify_on_its_own, service) for _ in range(6)]
        wait_until(lambda: service.metric("aaserve_queue_depth") == 6)
        assert service.stop() == 0
        assert {request.result().status_code for request in accepted} == {200}
        assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def test_workers_end_when_the_supervisor_is_killed() -> None:
    with running_service("--workers", "2") as service:
        workers = children(service.process.pid)
        service.process.kill()
        service.process.wait(40)
        wait_until(lambda: not any(alive(worker) for worker in workers))


def test_a_worker_that_cannot_start_again_ends_the_service_with_its_error(tmp_path: Path) -> None:
    repository = Path(shutil.copytree(REPOSITORY, tmp_path / "model_repository"))
    with running_service("--workers", "2", repository=repository) as service:
        wait_until(lambda: all_ready(service))
        (repository / "aa-cifar100" / "1" / "manifest.json").write_text("{}")
        os.kill(children(service.process.pid)[0], signal.SIGKILL)
        assert service.process.wait(30) == 1
        assert [line for line in service.log if line.startswith("error: ") and "manifest.json" in line]


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.settings.available_cores", lambda: 8)
    settings = Settings(workers=4)
    assert (settings.intra_op_num_threads, settings.decode_threads) == (2, 2)
    assert Settings(workers=16).intra_op_num_threads == 1
    assert Settings(workers=4, intra_op_num_threads=3).intra_op_num_threads == 3


def classify_on_its_own(service: RunningService) -> httpx.Response:
    """On a connection of its own, which any worker may take."""
    headers = {"Content-Type": "image/jpeg"}
    return httpx.post(f"{service.client.base_url}/classify", content=JPEG, headers=headers, timeout=30)


def alive(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
