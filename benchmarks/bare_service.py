"""python -m benchmarks.bare_service BUNDLE PORT

The least that can be called a server of this model in Python: uvicorn whose application reads, decodes, calls ONNX
Runtime and answers the best label, in the event loop, a picture at a time. No metrics, log, ids, limits, batches,
deadlines or errors. One process; `bare_services` starts one for each core.
"""

import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn

import bundle.telemetry  # noqa: F401  (before onnxruntime)
from benchmarks.circumstances import ROOT
from benchmarks.generator import Address
from benchmarks.peers.servers.ports import spare_port
from bundle.bundle import open_bundle
from bundle.model_input import read_input

import onnxruntime  # isort: skip

HOST = "127.0.0.1"
MAX_PIXELS = 50_000_000
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


@contextmanager
def bare_services(folder: Path, number: int) -> Iterator[list[Address]]:
    """Where so many processes answer."""
    ports = [spare_port() for _ in range(number)]
    command = [sys.executable, "-m", "benchmarks.bare_service", str(folder)]
    processes = [subprocess.Popen([*command, str(port)], cwd=ROOT, stdout=subprocess.PIPE) for port in ports]
    try:
        for process in processes:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise OSError(f"the bare service ended with status {process.wait()}")
        yield [(HOST, port) for port in ports]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(10)


def main() -> None:
    opened = open_bundle(Path(sys.argv[1]))
    manifest = opened.manifest
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(opened.model_path, options, providers=["CPUExecutionProvider"])

    def classify(picture: bytes) -> bytes:
        row = read_input(picture, manifest, max_pixels=MAX_PIXELS)
        logits = session.run([manifest.output.name], {manifest.input.name: row[np.newaxis]})[0][0]
        return json.dumps({"label": manifest.labels[int(logits.argmax())]}).encode()

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
            os.write(1, b"ready\n")

    Server(uvicorn.Config(application, port=int(sys.argv[2]), log_level="error", lifespan="off")).run()


if __name__ == "__main__":
    main()
