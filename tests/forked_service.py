"""`python -m service` without a new interpreter: forked from a process that has imported everything already.

Imports take most of the processor time of a start. The fork runs service/__main__.py from its first line, but in an
interpreter that is up: tests of that, and of modules that are not installed, start a new one.
"""

import logging
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import chdir
from importlib import import_module
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

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


def _run(options: tuple[str, ...], environment: dict[str, str], stderr: Connection, patch: str) -> None:
    os.dup2(stderr.fileno(), 2)
    stderr.close()
    os.environ.clear()
    os.environ.update(environment)
    if path := environment.get("PYTHONPATH"):
        sys.path[:0] = path.split(os.pathsep)
        if find_spec("sitecustomize"):
            import_module("sitecustomize")
    if folder := environment.get(tried_models.FOLDER):
        Trials.check = tried_models.remembered(Path(folder))  # type: ignore[method-assign]
    exec(patch, {})
    sys.argv = ["service", *options]
    try:
        runpy.run_module("service", run_name="__main__", alter_sys=True)
    finally:
        logging.shutdown()  # a fork ends without what atexit would run
