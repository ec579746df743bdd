"""A server to compare with aaserve: how to install, start and query it."""

import http.client
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from benchmarks.harness.circumstances import ROOT
from benchmarks.harness.environments import is_made, make_environment
from benchmarks.harness.process_tree import process_tree
from benchmarks.peers.servers.ports import spare_port

ENVIRONMENTS = ROOT / ".venv-peers"
REQUIREMENTS = Path(__file__).parent / "requirements"
HOST = "127.0.0.1"
PATIENCE = 120.0  # time limit of a start in seconds
LOG_LINES = 60

Body = Callable[[bytes, str], tuple[str, bytes]]
Top1 = Callable[[bytes], int | None]


class StartFailed(Exception):
    """The peer did not start; the message has its log."""


@dataclass(frozen=True)
class Served:
    """A running peer.

    Args:
        ports: one, or one per process.
        path: for POST.
        process: the root of its process tree, whose memory is measured.
        body: picture and media type --> Content-Type and body.
        top_1: body of an answer --> class index of its best label.
        headers: further headers of each request.
    """

    host: str
    ports: tuple[int, ...]
    path: str
    process: int
    body: Body
    top_1: Top1
    headers: Mapping[str, str] = field(default_factory=dict)

    def ask(self, picture: bytes, media_type: str, *, timeout: float = 30) -> bytes:
        """The body of the answer for one picture.

        Raises:
            OSError: no answer, or a status other than 200.
        """
        content_type, body = self.body(picture, media_type)
        headers = {"Content-Type": content_type, **self.headers}
        request = urllib.request.Request(f"http://{self.host}:{self.ports[0]}{self.path}", body, headers)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            content: bytes = answer.read()
        return content


@dataclass(frozen=True)
class Peer:
    """A peer: `servers/{name}_server.py`, run by an interpreter with `requirements/{name}.txt`.

    Args:
        distribution: the package that gives the version.
        environment: variables of its process.
        own_environment: False: run it with this interpreter.
        reader: its image reader, "pillow" or "bundle", see servers/reading.py.
    """

    name: str
    distribution: str
    path: str
    body: Body
    top_1: Top1
    headers: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    own_environment: bool = True
    reader: str = "pillow"

    @property
    def version(self) -> str:
        """The pinned and installed version."""
        if not self.own_environment:
            return version(self.distribution)
        pins = dict(line.split("==") for line in self._requirements.read_text().split())
        return pins[self.distribution]

    @property
    def installed(self) -> bool:
        return not self.own_environment or is_made(self._folder, self._requirements)

    def install(self) -> Path:
        """Make its environment if needed; return its interpreter."""
        return make_environment(self._folder, self._requirements) if self.own_environment else Path(sys.executable)

    @contextmanager
    def serve(self, bundle: Path, *, cores: list[int] | None = None) -> Iterator[Served]:
        """Serve a bundle (the folder NAME/VERSION) within the block; then end all its processes.

        Args:
            cores: cores to run on; None: all.

        Raises:
            StartFailed: it ended or did not answer in time; the message has the end of its log.
        """
        port = spare_port()
        python = self.install()
        with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as scratch:
            folder = Path(scratch)
            environment = {
                "ORT_DISABLE_TELEMETRY": "1",  # bundle/telemetry.py
                "PYTHONPATH": str(ROOT),
                "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",  # some run their own commands
                "HOME": scratch,  # removed afterwards, with the temporary files
                "TMPDIR": scratch,
                "PEER_BUNDLE": str(bundle.resolve()),
                "PEER_PORT": str(port),
                "PEER_READER": self.reader,
                **self.environment,
            }
            command: list[str | Path] = [python, "-m", f"benchmarks.peers.servers.{self.name}_server"]
            with process_tree(command, environment=environment, cores=cores, folder=folder) as root:
                served = Served(HOST, (port,), self.path, root.pid, self.body, self.top_1, self.headers)
                picture = (ROOT / "examples" / "cat.jpg").read_bytes()
                deadline = time.monotonic() + PATIENCE
                while objection := _objection(served, picture):
                    if root.poll() is not None:
                        objection = f"ended with status {root.returncode}"
                    elif time.monotonic() < deadline:
                        time.sleep(0.2)
                        continue
                    raise StartFailed(f"{self.name}: {objection}; end of its log:\n{_tail(folder)}")
                yield served

    @property
    def _folder(self) -> Path:
        return ENVIRONMENTS / self.name

    @property
    def _requirements(self) -> Path:
        return REQUIREMENTS / f"{self.name}.txt"


def log_when_ready(name: str, root: subprocess.Popen[bytes], folder: Path, ready: str, processes: int) -> str:
    """The log of a server, once `processes` of its processes have logged `ready`.

    Raises:
        StartFailed: it ended, or was not ready in time.
    """
    deadline = time.monotonic() + PATIENCE
    while (lines := (folder / "log").read_text()).count(ready) < processes:
        if root.poll() is not None or time.monotonic() > deadline:
            raise StartFailed(f"{name}: not ready; its log:\n{lines}")
        time.sleep(0.05)
    return lines


def _objection(served: Served, picture: bytes) -> str | None:
    """Why this server is not ready; None if it is."""
    try:
        served.top_1(served.ask(picture, "image/jpeg"))
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    return None


def _tail(folder: Path) -> str:
    return "\n".join((folder / "log").read_text(errors="replace").splitlines()[-LOG_LINES:])
