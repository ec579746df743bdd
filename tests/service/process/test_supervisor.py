"""Several processes on one port: one truth in the metrics, and none that is missed when it dies."""

import concurrent.futures
import hashlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from aaserve.service.settings import Settings
from tests.helpers import (
    COMMAND,
    EXAMPLES,
    REPOSITORY,
    ROOT,
    RunningService,
    held_service,
    running_service,
    wait_until,
)
from tests.service.process.shared_files import connection_counts
from tests.toy_bundles import write_fragile_bundle

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs Linux's /proc")


def children(process_id: int) -> list[int]:
    text = Path(f"/proc/{process_id}/task/{process_id}/children").read_text()
    return [int(child) for child in text.split()]


def all_ready(service: RunningService) -> bool:
    """Whether every worker has said so."""
    return sum("ready" in line for line in service.log) >= 2


def test_every_worker_reports_the_metrics_of_all() -> None:
    with running_service("--workers", "2") as service:
        wait_until(lambda: all_ready(service))
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: classify_on_its_own(service), range(40)))
        assert {answer.status_code for answer in answers} == {200}
        wait_until(lambda: service.metric("aaserve_stage_duration_seconds_count", stage="respond") == 40)
        wait_until(lambda: service.metric("aaserve_inflight_requests") == 0)  # each worker writes once a second
        for _ in range(6):  # of either worker
            text = metrics_on_their_own(service)
            assert 'aaserve_requests_total{code="200",endpoint="/classify",model="aa-cifar100"} 40.0' in text
            assert "pid=" not in text
            assert 'aaserve_queue_capacity{model="aa-cifar100"} 256.0' in text
            assert 'aaserve_queue_depth{model="aa-cifar100"} 0.0' in text
            assert "\naaserve_inflight_requests 0.0\n" in text  # neither this scrape nor those before it
            assert 'aaserve_model_ready{model="aa-cifar100",version="1"} 1.0' in text
        processes = [service.process.pid, *children(service.process.pid)]
        assert len(processes) == 3
        [most] = {resource.prlimit(process, resource.RLIMIT_NOFILE)[0] for process in processes}
        assert service.metric("process_max_fds") == 3 * most
        assert service.metric("process_open_fds") > max(open_files(process) for process in processes)
        assert service.metric("process_resident_memory_bytes") > sum(resident_bytes(each) for each in processes) / 2
        assert service.metric("aaserve_worker_restarts_total") == 0


def test_a_killed_worker_is_replaced_without_disturbing_the_others() -> None:
    with running_service("--workers", "2") as service:
        wait_until(lambda: all_ready(service))
        for _ in range(10):
            assert classify_on_its_own(service).status_code == 200
        wait_until(lambda: answered(service) == 10)  # a worker counts an answer after it has sent it
        [first, second] = children(service.process.pid)
        started, cpu_seconds = service.metric("process_start_time_seconds"), service.metric("process_cpu_seconds_total")
        os.kill(first, signal.SIGKILL)
        for _ in range(20):  # while one is missing
            assert classify_on_its_own(service).status_code == 200
        wait_until(lambda: answered(service) == 30)
        wait_until(lambda: len(set(children(service.process.pid)) - {first, second}) == 1)
        wait_until(lambda: sum("ready" in line for line in service.log) >= 3)
        os.kill(second, signal.SIGKILL)  # so that the replacement has to answer
        assert classify_on_its_own(service).status_code == 200
        wait_until(lambda: answered(service) == 31)
        assert 'aaserve_queue_capacity{model="aa-cifar100"}' in metrics_on_their_own(service)
        wait_until(lambda: service.metric("aaserve_worker_restarts_total") == 2)
        # What the killed worker computed stays counted, and the supervisor is the process that was started.
        assert service.metric("process_cpu_seconds_total") >= cpu_seconds
        assert service.metric("process_start_time_seconds") == started


def test_sighup_reaches_workers_that_are_still_starting() -> None:
    with running_service("--workers", "2", ready=False) as service:
        wait_until(lambda: len(children(service.process.pid)) == 2)
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: sum("reloaded" in line for line in service.log) == 2)
        assert all_ready(service)
        assert not any("replacing it" in line for line in service.log)


def test_a_rollback_reaches_all_workers_and_those_that_come_later(tmp_path: Path) -> None:
    repository, keys = tmp_path / "repository", tmp_path / "keys"
    write_fragile_bundle(repository)
    keys.write_text(f"admin,infer,metrics {hashlib.sha256(b'key').hexdigest()}\n")
    options = ("--workers", "2", "--api-keys-file", str(keys))
    with running_service(*options, repository=repository, headers={"Authorization": "Bearer key"}) as service:

        def change(what: str) -> httpx.Response:
            """By any worker: the connection is a new one."""
            url = f"{service.client.base_url}/admin/models/fragile/{what}"
            return httpx.post(url, headers=service.client.headers, timeout=60)

        def served() -> list[str]:
            """Versions that any worker serves."""
            versions = ("1", "2", "3")
            return [version for version in versions if service.metric("aaserve_model_info", version=version)]

        wait_until(lambda: all_ready(service))
        assert served() == ["1"]
        write_fragile_bundle(repository, version="2")
        assert change("load").json()["versions"][0] == {"version": "2", "task": "classification", "state": "ready"}
        wait_until(lambda: served() == ["2"])
        for wanted in ("1", "2", "1"):  # by either worker
            assert change("rollback").json()["versions"][0] == {
                "version": wanted,
                "task": "classification",
                "state": "ready",
            }
            wait_until(lambda wanted=wanted: served() == [wanted])
        remembered = repository / "fragile" / "rollback.json"
        content = remembered.read_text()
        remembered.unlink()
        remembered.mkdir()  # so that it cannot be written
        refused = change("rollback")
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
        assert "the other workers could not follow" in refused.json()["detail"]
        assert served() == ["1"]
        remembered.rmdir()
        remembered.write_text(content)
        os.kill(children(service.process.pid)[0], signal.SIGKILL)
        wait_until(lambda: sum("INFO aaserve ready" in line for line in service.log) == 3)
        assert served() == ["1"]
        refused = change("unload")
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
        assert "move its folder out of the repository and send SIGHUP" in refused.json()["detail"]


def test_sigterm_reaches_all_workers_and_all_that_was_accepted_is_answered() -> None:
    with (
        held_service("--workers", "2", seconds=10) as service,
        concurrent.futures.ThreadPoolExecutor() as threads,
    ):
        wait_until(lambda: all_ready(service))
        workers = children(service.process.pid)
        accepted = [threads.submit(classify_on_its_own, service) for _ in range(6)]
        wait_until(lambda: service.metric("aaserve_queue_depth") == 6)  # each worker writes once a second
        assert service.stop() == 0
        assert {request.result().status_code for request in accepted} == {200}
        assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def test_workers_end_when_the_supervisor_is_killed() -> None:
    with running_service("--workers", "2", run=COMMAND) as service:
        workers = children(service.process.pid)
        service.process.kill()
        service.process.wait(60)
        wait_until(lambda: not any(alive(worker) for worker in workers))


def test_a_worker_that_cannot_start_again_ends_the_service_with_its_error(tmp_path: Path) -> None:
    repository = Path(shutil.copytree(REPOSITORY, tmp_path / "model_repository"))
    with running_service("--workers", "2", repository=repository) as service:
        wait_until(lambda: all_ready(service))
        (repository / "aa-cifar100" / "1" / "manifest.json").write_text("{}")
        os.kill(children(service.process.pid)[0], signal.SIGKILL)
        assert service.process.wait(60) == 1
    assert [line for line in service.log if line.startswith("error: ") and "manifest.json" in line]


def test_a_supervisor_that_can_start_no_process_says_so_keeps_its_workers_and_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "bin" / "python"  # as in an environment of its own, so that it can go away
    python.parent.mkdir()
    python.symlink_to(Path(sys.executable).resolve())
    if (configuration := Path(sys.prefix) / "pyvenv.cfg").exists():
        shutil.copy(configuration, tmp_path)
        (tmp_path / "lib").symlink_to(Path(sys.prefix) / "lib")
    monkeypatch.setattr(sys, "executable", str(python))
    (tmp_path / "sitecustomize.py").write_text(
        "from aaserve.service.process import supervisor\nsupervisor.RETRY_PAUSE = 0.5\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    with running_service("--workers", "2", run=COMMAND) as service:
        wait_until(lambda: all_ready(service))
        [first, second] = children(service.process.pid)
        target = python.readlink()
        python.unlink()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: any("worker 0 cannot be started: [Errno 2]" in line for line in service.log))
        assert classify_on_its_own(service).status_code == 200
        wait_until(lambda: children(service.process.pid) == [second])  # beside it, an attempt may just be failing
        python.symlink_to(target)
        wait_until(lambda: sum("ready" in line for line in service.log) >= 3)
        assert len(children(service.process.pid)) == 2
        assert service.stop() == 0


def test_a_worker_that_is_stopped_counts_no_more_until_it_goes_on_and_holds_up_no_end() -> None:
    with running_service("--workers", "2") as service:

        def takes_connections() -> bool:
            return int.from_bytes(counts.read_bytes()[4:8], "little") != 2**32 - 1

        wait_until(lambda: all_ready(service))
        stopped = children(service.process.pid)[1]
        counts = connection_counts(stopped)
        wait_until(lambda: classify_on_its_own(service).status_code == 200 and takes_connections())
        os.kill(stopped, signal.SIGSTOP)
        wait_until(lambda: any("worker 1 is stopped" in line for line in service.log))
        wait_until(lambda: not takes_connections())
        assert {classify_on_its_own(service).status_code for _ in range(4)} == {200}
        os.kill(stopped, signal.SIGCONT)
        wait_until(lambda: any("worker 1 goes on" in line for line in service.log))
        wait_until(lambda: classify_on_its_own(service).status_code == 200 and takes_connections())
        os.kill(stopped, signal.SIGSTOP)
        wait_until(lambda: sum("worker 1 is stopped" in line for line in service.log) == 2)
        assert service.stop() == 0


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["alone", "workers"])
def test_a_service_that_is_stopped_before_it_has_begun_ends_as_any_other(workers: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "service", "--port", "0", "--repository", str(REPOSITORY), *workers]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:  # being loaded
        wait_until(lambda: catches_sigterm(process.pid))
        process.terminate()
        assert process.wait(60) == 0
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:  # beginning
        assert "listening" in process.stderr.readline()
        process.terminate()
        assert process.wait(60) == 0


def catches_sigterm(process_id: int) -> int:
    [caught] = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{process_id}/status").read_text())
    return int(caught, 16) & 1 << (signal.SIGTERM - 1)


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aaserve.service.settings.available_cores", lambda: 8)
    settings = Settings(workers=4)
    assert (settings.intra_op_num_threads, settings.decode_threads) == (2, 2)
    assert Settings(workers=16).intra_op_num_threads == 1
    assert Settings(workers=4, intra_op_num_threads=3).intra_op_num_threads == 3


def classify_on_its_own(service: RunningService) -> httpx.Response:
    """On a connection of its own, which any worker may take."""
    headers = {"Content-Type": "image/jpeg"}
    return httpx.post(f"{service.client.base_url}/classify", content=JPEG, headers=headers, timeout=60)


def metrics_on_their_own(service: RunningService) -> str:
    return httpx.get(f"{service.client.base_url}/metrics", timeout=60).text


def answered(service: RunningService) -> int:
    """Pictures that were classified; by a connection of its own, because a worker may just have been killed."""
    [count] = re.findall(
        r'aaserve_requests_total\{code="200",endpoint="/classify",.*\} (\d+)', metrics_on_their_own(service)
    )
    return int(count)


def open_files(process_id: int) -> int:
    return len(list(Path(f"/proc/{process_id}/fd").iterdir()))


def resident_bytes(process_id: int) -> int:
    return int(Path(f"/proc/{process_id}/statm").read_text().split()[1]) * resource.getpagesize()


def alive(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
