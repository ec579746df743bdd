"""A server that aaserve is compared with: how it is installed, started and asked."""

import base64
import json
import os
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from benchmarks.circumstances import ROOT
from benchmarks.environments import is_made, make_environment
from benchmarks.peers.process_tree import process_tree

ENVIRONMENTS = ROOT / ".venv-peers"
REQUIREMENTS = Path(__file__).parent / "requirements"
HOST = "127.0.0.1"
PATIENCE = 120.0  # seconds that a start may take
LOG_LINES = 60

Body = Callable[[bytes, str], tuple[str, bytes]]
Top1 = Callable[[bytes], int]


class StartFailed(Exception):
    """The peer did not start; its log says why."""


@dataclass(frozen=True)
class Served:
    """A peer that answers.

    Args:
        path: which to POST to.
        process: the root; the memory of its whole tree is the peer's.
        body: picture and its media type --> Content-Type and body.
        top_1: body of an answer --> class index of its best label.
        headers: further ones that each request has to have.
    """

    host: str
    port: int
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
        request = urllib.request.Request(f"http://{self.host}:{self.port}{self.path}", body, headers)
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
    """

    name: str
    distribution: str
    path: str
    body: Body
    top_1: Top1
    headers: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    own_environment: bool = True

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
        port = _free_port()
        command = [self.install(), "-m", f"benchmarks.peers.servers.{self.name}_server"]
        with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as scratch:
            folder = Path(scratch)
            environment = {
                "ORT_DISABLE_TELEMETRY": "1",  # bundle/telemetry.py
                "PYTHONPATH": str(ROOT),
                "PATH": f"{command[0].parent}{os.pathsep}{os.environ['PATH']}",  # some run commands of their own
                "HOME": scratch,  # what they leave there or among temporary files goes with it
                "TMPDIR": scratch,
                "PEER_BUNDLE": str(bundle.resolve()),
                "PEER_PORT": str(port),
                **self.environment,
            }
            with process_tree(command, environment=environment, cores=cores, folder=folder) as root:
                served = Served(HOST, port, self.path, root.pid, self.body, self.top_1, self.headers)
                picture = (ROOT / "examples" / "cat.jpg").read_bytes()
                deadline = time.monotonic() + PATIENCE
                while not _answers(served, picture):
                    if root.poll() is not None or time.monotonic() > deadline:
                        raise StartFailed(f"{self.name}: {_ending(root.poll())}; its log ends so:\n{_tail(folder)}")
                    time.sleep(0.2)
                yield served

    @property
    def _folder(self) -> Path:
        return ENVIRONMENTS / self.name

    @property
    def _requirements(self) -> Path:
        return REQUIREMENTS / f"{self.name}.txt"


def raw(picture: bytes, media_type: str) -> tuple[str, bytes]:
    return media_type, picture


def multipart(picture: bytes, media_type: str) -> tuple[str, bytes]:
    """A form with the file `image`."""
    boundary = "ce1f2c9f0b4c4e0e"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="image"\r\n'
    body = f"{head}Content-Type: {media_type}\r\n\r\n".encode() + picture + f"\r\n--{boundary}--\r\n".encode()
    return f"multipart/form-data; boundary={boundary}", body


def json_base64(picture: bytes, media_type: str) -> tuple[str, bytes]:
    return "application/json", json.dumps({"image": base64.b64encode(picture).decode()}).encode()


def json_list_base64(picture: bytes, media_type: str) -> tuple[str, bytes]:
    return "application/json", json.dumps({"images": [base64.b64encode(picture).decode()]}).encode()


def v2_base64(picture: bytes, media_type: str) -> tuple[str, bytes]:
    """The Open Inference Protocol without its binary extension."""
    image = {
        "name": "image",
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(picture).decode()],
    }
    return "application/json", json.dumps({"inputs": [image]}).encode()


def best_prediction(answer: bytes) -> int:
    """Of {"predictions": [{"label", "class_index", "score"}, …]}, best first."""
    index: int = json.loads(answer)["predictions"][0]["class_index"]
    return index


def first_best_prediction(answer: bytes) -> int:
    """Of a list of one such answer."""
    index: int = json.loads(answer)[0]["predictions"][0]["class_index"]
    return index


def v2_class_index(answer: bytes) -> int:
    """Of the tensor `class_index`, best first."""
    outputs = {output["name"]: output for output in json.loads(answer)["outputs"]}
    index: int = outputs["class_index"]["data"][0]
    return index


def v2_binary_class_index(answer: bytes) -> int:
    """The same where tensors follow the JSON as bytes."""
    outputs, position = json.JSONDecoder().raw_decode(answer.decode("latin-1"))
    for output in outputs["outputs"]:
        if output["name"] == "class_index":
            return int.from_bytes(answer[position : position + 4], "little")
        position += output["parameters"]["binary_data_size"]
    raise ValueError("no class_index in the answer")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        port: int = free.getsockname()[1]
        return port


def _answers(served: Served, picture: bytes) -> bool:
    try:
        served.top_1(served.ask(picture, "image/jpeg"))
    except (OSError, ValueError):
        return False
    return True


def _ending(status: int | None) -> str:
    return f"no answer within {PATIENCE:.0f} s" if status is None else f"ended with status {status}"


def _tail(folder: Path) -> str:
    return "\n".join((folder / "log").read_text(errors="replace").splitlines()[-LOG_LINES:])
