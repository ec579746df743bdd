"""`python -m service` without a new interpreter: forked from a process that has imported it already.

Importing takes most of the processor time of a start. What comes before `main()` is skipped, so tests of starting and
stopping run the command itself.
"""

import multiprocessing
import os
import signal
import site
import subprocess
import sys
from collections.abc import Mapping
from contextlib import chdir
from multiprocessing.connection import Connection
from pathlib import Path

import uvicorn.loops.auto  # noqa: F401  (what main() imports later)
import uvloop  # noqa: F401

from aaserve.service import __main__ as command

ROOT = Path(__file__).parent.parent
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([__name__])


class ForkedService:
    """Like a subprocess.Popen with a pipe for stderr.

    Args:
        environment: variables besides those of this process. On a PYTHONPATH given here, a sitecustomize runs.
    """

    def __init__(self, *options: str, environment: Mapping[str, str]) -> None:
        reader, writer = _SERVER.Pipe(duplex=False)
        self._process = _SERVER.Process(target=_run, args=(options, dict(os.environ), dict(environment), writer))
        with chdir(ROOT):  # where the fork server finds the packages, and the service its examples
            self._process.start()
        writer.close()
        self.stderr = os.fdopen(os.dup(reader.fileno()), errors="replace")
        reader.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

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


def _run(options: tuple[str, ...], inherited: dict[str, str], environment: dict[str, str], stderr: Connection) -> None:
    os.dup2(stderr.fileno(), 2)
    stderr.close()
    os.environ.clear()
    os.environ.update(inherited | environment)
    if path := environment.get("PYTHONPATH"):
        sys.path[:0] = path.split(os.pathsep)
        site.execsitecustomize()
    sys.argv = [command.__file__, *options]
    sys.exit(command.main())
