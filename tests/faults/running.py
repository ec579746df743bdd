"""The service in a separate process, to be stopped, killed and starved."""

import asyncio
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.forked_service import ForkedService
from tests.helpers import REPOSITORY, ROOT

HOST = "127.0.0.1"
PATIENCE = 60.0  # seconds until something that must happen has not happened


@dataclass(frozen=True)
class Service:
    """A service that was ready; `log` is the file that its stderr goes to."""

    process: subprocess.Popen[str] | ForkedService
    port: int
    log: Path

    def get(self, path: str) -> httpx.Response:
        """The answer on a connection of its own."""
        return httpx.get(f"http://{HOST}:{self.port}{path}", timeout=PATIENCE)

    def is_ready(self) -> bool:
        with suppress(httpx.TransportError):
            return self.get("/health/ready").status_code == 200
        return False

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples with these labels."""
        return sum(self.samples(name, **labels).values())

    def samples(self, name: str, **labels: str) -> dict[str, float]:
        """Samples by their labels, as they are written."""
        found = {}
        for line in self.get("/metrics").text.splitlines():
            sample, _, value = line.rpartition(" ")
            if re.split("[{ ]", sample)[0] == name and all(f'{key}="{text}"' in sample for key, text in labels.items()):
                found[sample] = float(value)
        return found

    def counted(self) -> dict[str, int]:
        """Requests that asked a model, by status, as the service counts them."""
        codes: dict[str, int] = {}
        for sample, value in self.samples("aaserve_requests_total", endpoint="/classify").items():
            code = re.search('code="([0-9]+)"', sample)[1]  # type: ignore[index]
            codes[code] = codes.get(code, 0) + int(value)
        return codes

    def workers(self) -> list[int]:
        process = self.process.pid
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]

    def lines(self, word: str) -> int:
        """How many lines of the log have this word."""
        return sum(word in line for line in self.log.read_text().splitlines())

    def memory(self, field: str) -> int:
        """Bytes: VmRSS, VmData, …"""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+) kB", text)[1]) * 1024  # type: ignore[index]

    def files(self) -> int:
        """Open file descriptors, connections among them."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def limit(self, kind: int, soft: int) -> None:
        """Set a limit of its resources: resource.RLIMIT_…"""
        resource.prlimit(self.process.pid, kind, (soft, resource.RLIM_INFINITY))


@contextmanager
def running(*options: str, fork: bool = True, patch: str = "", stderr: int | None = None) -> Iterator[Service]:
    """Start the service and wait until it is ready; it serves aa-cifar100, if `options` name no repository.

    Args:
        fork: or start a new interpreter, as users do.
        patch: Python that runs first in the fork, to break something.
        stderr: a file descriptor; by default the log goes to a file.
    """
    port = _free_port()
    if "--repository" not in options:
        options = ("--repository", str(REPOSITORY), *options)
    options = ("--port", str(port), "--log-format", "json", *options)
    with tempfile.NamedTemporaryFile("a+", prefix="aaserve-", suffix=".log") as log:
        to = log.fileno() if stderr is None else stderr
        process: subprocess.Popen[str] | ForkedService
        if fork:
            process = ForkedService(*options, environment={}, stderr=to, patch=patch)
        else:
            process = subprocess.Popen([sys.executable, "-m", "service", *options], cwd=ROOT, stderr=to, text=True)
        service = Service(process, port, Path(log.name))
        try:
            wait_until(lambda: process.poll() is not None or service.is_ready())
            if process.poll() is not None:
                raise SystemExit(f"error: the service did not start\n{service.log.read_text()}")
            yield service
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()
                process.wait()


def wait_until(condition: Callable[[], object]) -> float:
    """Poll what another process shows; the seconds that it took."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > PATIENCE:
            raise TimeoutError("what should have happened has not")
        time.sleep(0.02)
    return time.monotonic() - started


async def later(condition: Callable[[], object]) -> float:
    """`wait_until`, while the traffic goes on."""
    return await asyncio.to_thread(wait_until, condition)


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as free:
        return int(free.getsockname()[1])
