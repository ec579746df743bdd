"""Threads: they give way without insisting on it, and none ends without the service ending too."""

import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from aaserve.service.http.app import create_app
from aaserve.service.settings import Settings
from aaserve.service.threads import lower_priority
from tests.helpers import EXAMPLES, REPOSITORY, running_service, served, wait_until

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
# `nice -n 10`, without the right to raise a priority again, which root has.
NICE_AND_UNPRIVILEGED = """
import os, sys
os.nice(10)
unprivileged = ["setpriv", "--inh-caps=-sys_nice", "--bounding-set=-sys_nice"] if os.geteuid() == 0 else ["env"]
os.execvp(unprivileged[0], [*unprivileged, sys.executable, "-m", "service", *sys.argv[1:]])
"""
LOG_THREAD_ENDS = """
import pathlib, sys, threading
from aaserve.service.observability.log_writer import LogWriter

write, flag = LogWriter._write, pathlib.Path({flag!r})

def write_or_end(self, lines):
    if flag.exists() and threading.current_thread().name == "log":
        raise MemoryError
    return write(self, lines)

LogWriter._write = write_or_end
from aaserve.service.__main__ import main
sys.exit(main())
"""


def classify(client: httpx.Client, path: str = "/classify") -> httpx.Response:
    return client.post(path, content=JPEG, headers={"Content-Type": "image/jpeg"})


@pytest.mark.parametrize(("present", "wanted"), [(0, 5), (10, 15), (17, 19)])
def test_a_priority_is_lowered_from_the_present_one(monkeypatch: pytest.MonkeyPatch, present: int, wanted: int) -> None:
    found: list[int] = []
    monkeypatch.setattr(os, "getpriority", lambda *_: present)
    monkeypatch.setattr(os, "setpriority", lambda _, __, niceness: found.append(niceness))
    lower_priority(5)
    assert found == [wanted]


@pytest.mark.parametrize("call", ["getpriority", "setpriority"])
@pytest.mark.parametrize("error", [PermissionError(1, "seccomp"), PermissionError(13, "no"), OSError(38, "unknown")])
def test_a_refusal_to_lower_the_priority_is_tolerated(
    monkeypatch: pytest.MonkeyPatch, call: str, error: OSError
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, call, refuse)
    lower_priority(5)


def test_a_process_that_is_nice_already_and_may_not_change_that_serves_and_stops() -> None:
    if not Path("/proc").is_dir():
        pytest.skip("needs Linux's /proc")
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("needs setpriv of util-linux to give up root's rights")
    with running_service(run=("-c", NICE_AND_UNPRIVILEGED)) as service:
        assert classify(service.client).status_code == 200
        niceness = {}
        for task in Path(f"/proc/{service.process.pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended since it was listed
                name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
                niceness[name] = int(rest.split()[16])
        assert max(niceness.values()) == 15, niceness  # 10 of the process, and 5
        assert service.stop() == 0


def lane_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr("aaserve.service.engine.inference_threads._outcome", end)


def decode_thread_cannot_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*_: object) -> None:
        raise RuntimeError("injected")

    monkeypatch.setattr("aaserve.service.engine.cpu_pool.lower_priority", end)


@pytest.mark.parametrize(
    ("inject", "path", "failure"),
    [
        (lane_ends, "/classify", "an inference thread ended unexpectedly: SystemExit()"),
        (decode_thread_cannot_begin, "/explain", "the thread decode ended unexpectedly: RuntimeError('injected')"),
    ],
    ids=["inference", "decode"],
)
def test_a_thread_that_ends_turns_the_service_red_at_once_and_is_logged(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    inject: Callable[[pytest.MonkeyPatch], None],
    path: str,
    failure: str,
) -> None:
    stopped = threading.Event()
    app = create_app(Settings(repository=REPOSITORY, provider="cpu"), on_failure=stopped.set)
    with served(app) as (client, _):  # whose end would hang if the service waited for the thread
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        inject(monkeypatch)
        assert classify(client, path).status_code == 500  # at once, not at its deadline
        assert stopped.wait(60)
        assert app.state.lifecycle.failure == failure
        assert client.get("/health/live").status_code == client.get("/health/ready").status_code == 503
    assert "ended unexpectedly" in caplog.text


def test_a_log_thread_that_ends_ends_the_process_with_a_line_about_it(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    with running_service(run=("-c", LOG_THREAD_ENDS.format(flag=str(flag)))) as service:
        flag.touch()
        assert classify(service.client).status_code == 200  # and gets a log line
        assert service.process.wait(60) == 1
    assert [line for line in service.log if "ERROR aaserve the thread log ended unexpectedly" in line]
    assert [line for line in service.log if line == "error: the thread log ended unexpectedly: MemoryError()\n"]
