"""A server that aaserve is compared with: how it is installed, started and asked."""

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

from benchmarks.circumstances import ROOT
from benchmarks.environments import is_made, make_environment
from benchmarks.peers.process_tree import process_tree
from benchmarks.peers.servers.ports import spare_port

ENVIRONMENTS = ROOT / ".venv-peers"
REQUIREMENTS = Path(__file__).parent / "requirements"
HOST = "127.0.0.1"
PATIENCE = 120.0  # seconds that a start may take
LOG_LINES = 60

Body = Callable[[bytes, str], tuple[str, bytes]]
Top1 = Callable[[bytes], int | None]


class StartFailed(Exception):
    """The peer did not start; its log says why."""


@dataclass(frozen=True)
class Served:
    """A peer that answers.

    Args:
        ports: of its processes, where each has one of its own.
        path: which to POST to.
        process: the root; the memory of its whole tree is the peer's.
        body: picture and its media type --> Content-Type and body.
        top_1: body of an answer --> class index of its best label.
        headers: further ones that each request has to have.
    """

    host: str
    ports: tuple[int, ...]
    path: str
    process: int
    body: Body
    top_1: Top1
    headers: Mapping[str, str] = field(default_factory=dict)

    def ask(self, picture: bytes, media_type: str, *, timeout: float = 30) -> bytes:
        """The body of the answer to one picture.

        Raises:
            OSError: none came, or one of another status than 200.
        """
        content_type, body = self.body(picture, media_type)
        headers = {"Content-Type": content_type, **self.headers}
        request = urllib.request.Request(f"http://{self.host}:{self.ports[0]}{self.path}", body, headers)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            content: bytes = answer.read()
        return content


@dataclass(frozen=True)
class Peer:
    """One of them. `servers/{name}_server.py` is run by the interpreter that has `requirements/{name}.txt`.

    Args:
        distribution: the package whose version is the peer's.
        environment: variables it is run with.
        own_environment: whether it has one; else it is run by this interpreter.
        reader: "pillow" or "bundle", how it reads pictures: servers/reading.py.
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
        """As it is pinned, and so installed."""
        if not self.own_environment:
            return version(self.distribution)
        pins = dict(line.split("==") for line in self._requirements.read_text().split())
        return pins[self.distribution]

    @property
    def installed(self) -> bool:
        return not self.own_environment or is_made(self._folder, self._requirements)

    def install(self) -> Path:
        """Make its environment, unless it is there; return its interpreter."""
        return make_environment(self._folder, self._requirements) if self.own_environment else Path(sys.executable)

    @contextmanager
    def serve(self, bundle: Path, *, cores: list[int] | None = None) -> Iterator[Served]:
        """Serve a bundle (the folder NAME/VERSION) until the block is left, and then end every process of it.

        Args:
            cores: those it may run on; all if None.

        Raises:
            StartFailed: it ended, or did not answer in time; with the end of its log.
        """
        port = spare_port()
        python = self.install()
        with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as scratch:
            folder = Path(scratch)
            environment = {
                "ORT_DISABLE_TELEMETRY": "1",  # bundle/telemetry.py
                "PYTHONPATH": str(ROOT),
                "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",  # some run commands of their own
                "HOME": scratch,  # what they leave there or among temporary files goes with it
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
                    raise StartFailed(f"{self.name}: {objection}; its log ends so:\n{_tail(folder)}")
                yield served

    @property
    def _folder(self) -> Path:
        return ENVIRONMENTS / self.name

    @property
    def _requirements(self) -> Path:
        return REQUIREMENTS / f"{self.name}.txt"


def log_when_ready(name: str, root: subprocess.Popen[bytes], folder: Path, ready: str, processes: int) -> str:
    """The log of a server that says in it when it is ready, once as many processes have.

    Raises:
        StartFailed: it ended, or did not say so in time.
    """
    deadline = time.monotonic() + PATIENCE
    while (lines := (folder / "log").read_text()).count(ready) < processes:
        if root.poll() is not None or time.monotonic() > deadline:
            raise StartFailed(f"{name}: not ready; its log:\n{lines}")
        time.sleep(0.05)
    return lines


def _objection(served: Served, picture: bytes) -> str | None:
    """Why this is no server that is ready."""
    try:
        served.top_1(served.ask(picture, "image/jpeg"))
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    return None


def _tail(folder: Path) -> str:
    return "\n".join((folder / "log").read_text(errors="replace").splitlines()[-LOG_LINES:])
