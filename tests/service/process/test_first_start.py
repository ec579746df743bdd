"""Workers that do not become ready at once: one that loads refuses no request that another could answer."""

import concurrent.futures
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.helpers import EXAMPLES, ROOT, RunningService, running_service, wait_until

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
# A worker whose slot has a pipe goes on loading only once the pipe was written to.
HOLD = """
import json, os, pathlib

from aaserve.service.engine.runtime.session import OnnxSession

warm_up = OnnxSession.warm_up

def hold(*arguments):
    worker = json.loads(os.environ["_AASERVE_WORKER"])
    pipe = pathlib.Path(__file__).parent / f"slot-{worker['slot']}"
    if pipe.exists():
        pipe.read_bytes()
        pipe.unlink()
    return warm_up(*arguments)

OnnxSession.warm_up = hold
"""
pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs Linux's /proc")


class Held:
    """Two workers, and those of them that still have to load."""

    def __init__(self, service: RunningService, folder: Path) -> None:
        self.service = service
        self._folder = folder

    def release(self, slot: int) -> None:
        """Let it load; returns when it has come that far."""
        (self._folder / f"slot-{slot}").write_bytes(b"")

    def get(self, path: str) -> httpx.Response:
        """On a connection of its own, which any worker may take that takes connections."""
        return httpx.get(f"{self.service.client.base_url}{path}", timeout=60)

    def classify(self, times: int) -> list[httpx.Response]:
        """Likewise, some at once."""

        def ask(_: int) -> httpx.Response:
            headers = {"Content-Type": "image/jpeg"}
            return httpx.post(f"{self.service.client.base_url}/classify", content=JPEG, headers=headers, timeout=60)

        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            return list(threads.map(ask, range(times)))

    def ready(self) -> int:
        """How many have said so."""
        return sum(line.rstrip().endswith(" ready") for line in self.service.log)


@contextmanager
def held(*slots: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    (folder / "sitecustomize.py").write_text(HOLD)
    for slot in slots:
        os.mkfifo(folder / f"slot-{slot}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))
    with running_service("--workers", "2", ready=False) as service:
        try:
            yield Held(service, folder)
        finally:
            for pipe in folder.glob("slot-*"):  # a worker that loads does not end before it has
                os.close(os.open(pipe, os.O_RDWR))  # as `release`, but without waiting for a reader


def test_a_worker_that_loads_leaves_all_connections_to_one_that_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(1, folder=tmp_path, monkeypatch=monkeypatch) as workers:
        wait_until(lambda: workers.get("/health/ready").status_code == 200)
        assert [answer.status_code for answer in workers.classify(40)] == [200] * 40
        wait_until(lambda: workers.ready() == 1)  # the log comes later than the answers
        workers.release(1)
        wait_until(lambda: workers.ready() == 2)
        assert [answer.status_code for answer in workers.classify(8)] == [200] * 8


def test_workers_say_that_they_load_until_one_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with held(0, 1, folder=tmp_path, monkeypatch=monkeypatch) as workers:
        live, ready, [refused] = workers.get("/health/live"), workers.get("/health/ready"), workers.classify(1)
        assert (live.status_code, live.json()) == (200, {"state": "starting"})
        assert (ready.status_code, ready.json()["code"]) == (503, "not_ready")
        assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
        assert int(refused.headers["retry-after"]) >= 1
        assert {answer.headers["connection"] for answer in (live, ready, refused)} == {"close"}
        workers.release(1)
        wait_until(lambda: workers.get("/health/ready").status_code == 200)
        assert [answer.status_code for answer in workers.classify(40)] == [200] * 40
        wait_until(lambda: workers.ready() == 1)
        workers.release(0)
        wait_until(lambda: workers.ready() == 2)
        with stopped(slot=1, of=workers.service):  # so that the first has to answer
            assert [answer.status_code for answer in workers.classify(8)] == [200] * 8


@contextmanager
def stopped(*, slot: int, of: RunningService) -> Iterator[None]:
    supervisor = of.process.pid
    worker = int(Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()[slot])
    os.kill(worker, signal.SIGSTOP)
    try:
        wait_until(lambda: Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T")
        yield
    finally:
        os.kill(worker, signal.SIGCONT)
