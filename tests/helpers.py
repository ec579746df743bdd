"""Pictures to send, and the real service to send them to."""

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI
from PIL import Image

from aaserve.service.process.connection import Connection
from aaserve.service.process.connection_limit import ConnectionLimit
from tests.forked_service import ForkedService

ROOT = Path(__file__).parent.parent
COMMAND = ("-m", "service")  # for `running_service`
CONSOLE = ("--log-format", "console")  # stderr is no terminal here
DATA_SETS = ROOT.parent / "shared" / "data"  # pictures of others, which are not part of the repository
BAD_IMAGES, EXIF_ORIENTATION = DATA_SETS / "bad_images", DATA_SETS / "exif_orientation"
SHIPPED = ROOT / "model_repository"  # all models that ship
REPOSITORY = ROOT / "tests" / "repository"  # the small one of them alone, which is quick to load: aa-cifar100
EXAMPLES = ROOT / "examples"


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    """The picture as the bytes of a file."""
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def photograph(name: str = "rocket") -> Image.Image:
    return Image.open(EXAMPLES / f"{name}.jpg").convert("RGB")


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


class RunningService:
    """A service on a free port, ready to answer."""

    def __init__(self, process: subprocess.Popen[str] | ForkedService, client: httpx.Client, log: list[str]) -> None:
        self.process = process
        self.client = client
        self.log = log

    def classify(self, image_bytes: bytes, **params: Any) -> httpx.Response:
        return self.client.post(
            "/classify", content=image_bytes, params=params, headers={"Content-Type": "application/octet-stream"}
        )

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample; 0 if there is none yet."""
        for line in self.client.get("/metrics").text.splitlines():
            sample, _, value = line.rpartition(" ")
            if re.split("[{ ]", sample)[0] == name and all(f'{key}="{text}"' in sample for key, text in labels.items()):
                return float(value)
        return 0.0

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def running_service(
    *options: str,
    repository: Path = REPOSITORY,
    run: tuple[str, ...] | None = None,
    ready: bool = True,
    environment: Mapping[str, str] | None = None,
    **client_options: Any,
) -> Iterator[RunningService]:
    """Start the service, wait until it is ready, and stop it in the end.

    Args:
        run: what a new interpreter is to run; COMMAND is what a user types. By default the service is forked.
        ready: whether to wait for that; if not, only until it has its port.
        environment: variables that it has besides those of this process.
        client_options: of httpx.Client.
    """
    arguments = ["--port", "0", "--repository", str(repository), *CONSOLE, *options]
    process = _start(arguments, run, environment or {})
    log: list[str] = []
    reader = threading.Thread(target=lambda: log.extend(process.stderr), daemon=True)  # keeps the pipe empty
    try:
        url = _wait_for(process, log, r"listening on (https?://[\w.:\[\]]+)")
        if ready:
            _wait_for(process, log, r"\bready\b()")
        reader.start()
        with httpx.Client(base_url=url, timeout=60, **client_options) as client:
            yield RunningService(process, client, log)
    finally:
        process.terminate()
        process.wait(60)
        if reader.ident:
            reader.join()
        process.stderr.close()


@contextmanager
def held_service(*options: str, repository: Path = REPOSITORY, seconds: int = 60) -> Iterator[RunningService]:
    """A service whose batches wait so long for company, so that requests can be caught waiting on a slow machine.

    A full batch goes at once; a test whose batch cannot become full says fewer seconds, since it waits for their end.
    """
    patience = ("--max-queue-delay-ms", "1000", "--cpu-batch-ms", "10000", "--request-timeout-ms", "60000")
    with running_service(*patience, *options, repository=repository, environment=_patient(seconds)) as running:
        yield running


@contextmanager
def slow_body_service(*options: str, repository: Path = REPOSITORY) -> Iterator[RunningService]:
    """A service that waits for bodies, so that requests can be caught while theirs are still to come."""
    options = ("--request-timeout-ms", "60000", *options)
    with running_service(*options, repository=repository, environment=_patient(1)) as running:
        yield running


def _patient(times: int) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "patient"), str(ROOT)]), "PATIENCE": str(times)}


@contextmanager
def served(app: FastAPI) -> Iterator[tuple[httpx.Client, uvicorn.Server]]:
    """The application over a socket, in a thread of this process: for tests that reach into it."""
    app.state.room = ConnectionLimit(1000)
    server = uvicorn.Server(uvicorn.Config(app, http=Connection, port=0, log_config=None, lifespan="on"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        wait_until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client, server
    finally:
        server.should_exit = True
        thread.join(60)


def start_that_fails(*options: str, repository: Path = REPOSITORY, **environment: str) -> tuple[int, str]:
    """Exit status and stderr of a service that is expected not to start."""
    process = ForkedService("--port", "0", "--repository", str(repository), *options, environment=environment)
    try:
        status = process.wait(120)
    finally:
        process.kill()
    with process.stderr:
        return status, process.stderr.read()


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Poll the state of another process, because there is no event to wait for.

    A test that passes never waits so long: only a failure shows how many seconds they are.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def _start(
    arguments: list[str], run: tuple[str, ...] | None, environment: Mapping[str, str]
) -> subprocess.Popen[str] | ForkedService:
    if run is None:
        return ForkedService(*arguments, environment=environment)
    return subprocess.Popen(
        [sys.executable, *run, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for(process: subprocess.Popen[str] | ForkedService, log: list[str], pattern: str) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        log.append(line)
        if found := re.search(pattern, line.rstrip()):
            return found[1]
    raise AssertionError(f"the service ended before {pattern!r}:\n{''.join(log)}")
