"""`python -m service` without a new interpreter: forked from a process that has imported everything already.

Imports take most of the processor time of a start. The fork runs service/__main__.py from its first line, but in an
interpreter that is up: tests of that, and of modules that are not installed, start a new one. So do its workers: its
supervisor forks them.
"""

import logging
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from contextlib import chdir, suppress
from importlib import import_module
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

from aaserve.service.process import supervisor
from aaserve.service.repository.trials import Trials
from tests import tried_models

ROOT = Path(__file__).parent.parent
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([__name__, "aaserve.service.__main__", "uvicorn.loops.auto"])


class ForkedService:
    """Like a subprocess.Popen with a pipe for stderr.

    Args:
        environment: variables besides those of this process. A sitecustomize on PYTHONPATH runs.
        stderr: a file descriptor instead of the pipe.
        patch: Python that runs first in the service, to break something.
    """

    def __init__(
        self, *options: str, environment: Mapping[str, str], stderr: int | None = None, patch: str = ""
    ) -> None:
        if stderr is None:
            reader, writer = _SERVER.Pipe(duplex=False)
            self.stderr = os.fdopen(os.dup(reader.fileno()), errors="replace")
            reader.close()
        else:
            writer = Connection(os.dup(stderr))
        self._process = _SERVER.Process(target=_run, args=(options, {**os.environ, **environment}, writer, patch))
        with chdir(ROOT):  # where the fork server finds the packages, and the service its examples
            self._process.start()
        writer.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("service", timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def forked_command(
    *arguments: str, environment: Mapping[str, str], given: str = ""
) -> subprocess.CompletedProcess[str]:
    """`python -m aaserve` with these arguments, likewise; `given` is its stdin."""
    with TemporaryDirectory() as folder, chdir(ROOT):
        streams = stdin, stdout, stderr = [Path(folder) / str(number) for number in range(3)]
        stdin.write_text(given)
        process = _SERVER.Process(target=_run_command, args=(arguments, {**os.environ, **environment}, streams))
        process.start()
        process.join()
        return subprocess.CompletedProcess(arguments, process.exitcode or 0, stdout.read_text(), stderr.read_text())


def _run_command(arguments: tuple[str, ...], environment: dict[str, str], streams: list[Path]) -> None:
    for number, path in enumerate(streams):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0)  # noqa: SIM115  (multiprocessing has closed it)
    _take(environment)
    sys.argv = ["aaserve", *arguments]
    _run_main("aaserve")


def _run(options: tuple[str, ...], environment: dict[str, str], stderr: Connection, patch: str) -> None:
    os.dup2(stderr.fileno(), 2)
    stderr.close()
    _take(environment)
    supervisor.subprocess = SimpleNamespace(Popen=_ForkedWorker)  # type: ignore[assignment]
    exec(patch, {})
    sys.argv = ["service", *options]
    _run_main("service")


def _take(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    if path := environment.get("PYTHONPATH"):
        sys.path[:0] = path.split(os.pathsep)
        if find_spec("sitecustomize"):
            import_module("sitecustomize")
    if folder := environment.get(tried_models.FOLDER):
        Trials.check = tried_models.remembered(Path(folder))  # type: ignore[method-assign]


def _run_main(module: str) -> None:
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        logging.shutdown()  # a fork ends without what atexit would run


class _ForkedWorker:
    """What a supervisor asks of subprocess.Popen; the command is always its own."""

    def __init__(
        self, command: list[str], *, env: Mapping[str, str], pass_fds: tuple[int, ...], start_new_session: bool
    ) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        status = 1
        try:
            os.setsid()
            _forget_the_supervisor(pass_fds)
            os.environ.clear()
            os.environ.update(env)
            _run_main("service")
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)


def _forget_the_supervisor(pass_fds: tuple[int, ...]) -> None:
    """What a new interpreter would not have of it."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    logging.getLogger().handlers.clear()
    logging._handlerList.clear()  # type: ignore[attr-defined]  # of those that logging.shutdown closes
    for number in map(int, (path.name for path in Path("/proc/self/fd").iterdir())):
        if number > 2 and number not in pass_fds:
            with suppress(OSError):  # the one that listed them
                os.close(number)
