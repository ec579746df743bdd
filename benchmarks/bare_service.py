"""python -m benchmarks.bare_service BUNDLE PORT…

A minimal server of this model in Python: uvicorn with an application that reads, decodes, calls ONNX Runtime and
answers the best label, in the event loop, one picture at a time. No metrics, log, ids, limits, batches, deadlines or
errors. One process per port.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

import aaserve.bundle.telemetry  # noqa: F401  (before onnxruntime)
from aaserve.bundle.bundle import open_bundle
from aaserve.bundle.model_input import read_input
from benchmarks.harness.circumstances import ROOT
from benchmarks.harness.process_tree import process_tree
from benchmarks.peers import forms
from benchmarks.peers.peer import Served, log_when_ready
from benchmarks.peers.servers.ports import spare_port

import onnxruntime  # isort: skip

HOST = "127.0.0.1"
MAX_PIXELS = 50_000_000
READY = "ready\n"
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True)
class BareService:
    """A peer that shows about the most that a server on uvicorn can reach in the same round."""

    name: str = "bare service"
    version: str = uvicorn.__version__
    installed: bool = True

    def install(self) -> Path:
        return Path(sys.executable)

    @contextmanager
    def serve(self, bundle: Path, *, cores: list[int] | None = None) -> Iterator[Served]:
        """Like `Peer.serve`, with a process and a port per core.

        Raises:
            StartFailed: it did not become ready.
        """
        ports = tuple(spare_port() for _ in cores or os.sched_getaffinity(0))
        command = [sys.executable, "-m", "benchmarks.bare_service", bundle.resolve(), *map(str, ports)]
        with tempfile.TemporaryDirectory(prefix="bare-") as scratch:
            folder = Path(scratch)
            with process_tree(command, environment={"PYTHONPATH": str(ROOT)}, cores=cores, folder=folder) as root:
                log_when_ready(self.name, root, folder, READY, len(ports))
                yield Served(HOST, ports, "/classify", root.pid, forms.raw, forms.best)


def serve(folder: Path, port: int) -> None:
    opened = open_bundle(folder)
    manifest = opened.manifest
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(opened.model_path, options, providers=["CPUExecutionProvider"])

    def classify(picture: bytes) -> bytes:
        row = read_input(picture, manifest, max_pixels=MAX_PIXELS)
        logits = session.run([manifest.outputs[0].name], {manifest.input.name: row[np.newaxis]})[0][0]
        best = int(logits.argmax())
        return json.dumps({"predictions": [{"label": manifest.labels[best], "class_index": best}]}).encode()

    async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        answer = classify(body)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[Any] | None = None) -> None:
            await super().startup(sockets)
            os.write(1, READY.encode())

    Server(uvicorn.Config(application, port=port, log_level="error", lifespan="off", timeout_keep_alive=75)).run()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare_service", description=__doc__.partition("\n\n")[2])
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of a version of a model")
    parser.add_argument("ports", type=int, nargs="+", metavar="PORT")
    arguments = parser.parse_args()
    first, *others = arguments.ports
    children = []
    for port in others:
        if not (child := os.fork()):
            serve(arguments.bundle, port)
            return
        children.append(child)
    try:
        serve(arguments.bundle, first)
    finally:
        for child in children:
            os.kill(child, signal.SIGTERM)


if __name__ == "__main__":
    main()
