"""SIGTERM: readiness off, grace, no more connections, everything accepted is answered, exit 0."""

import asyncio
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import pytest

from tests.helpers import COMMAND, EXAMPLES, ROOT, running_service, wait_until

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()


def test_during_the_grace_readiness_is_off_and_requests_are_answered_until_a_second_sigterm() -> None:
    with running_service("--drain-grace-ms", "600000") as service:
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: service.client.get("/health/ready").status_code == 503)
        ready = service.client.get("/health/ready")
        assert (ready.json()["code"], "retry-after" in ready.headers) == ("draining", True)
        assert service.client.get("/health/live").status_code == 200
        answer = service.classify(JPEG)
        assert answer.status_code == 200
        assert answer.headers["connection"] == "close"  # take the next one elsewhere
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(60) == 0


def test_ctrl_c_does_not_wait_for_the_grace() -> None:
    with running_service("--drain-grace-ms", "600000", run=COMMAND) as service:
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(60) == 0


def test_a_client_that_connected_just_before_the_end_of_the_grace_may_still_ask() -> None:
    with running_service("--drain-grace-ms", "2000") as service:
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: service.client.get("/health/ready").status_code == 503)
        opened = []
        while True:  # until the last accept
            try:
                opened.append(socket.create_connection((service.client.base_url.host, service.client.base_url.port)))
            except (ConnectionRefusedError, ConnectionResetError):
                break
            time.sleep(0.01)
        time.sleep(0.3)  # a client that does not come to run at once
        opened[-1].sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = opened[-1].recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in answer.lower()
        assert service.process.wait(60) == 0  # the silent ones do not hold it
        for connection in opened:
            connection.close()


class _Answer(NamedTuple):
    status: str
    keeps_open: bool


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Answer:
    writer.write(b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\n")
    writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(JPEG), JPEG))
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    await reader.readexactly(int(re.search(r"content-length: (\d+)", head)[1]))  # type: ignore[index]
    return _Answer(head.split()[1], "connection: close" not in head)


@pytest.mark.parametrize("attempt", range(5))
def test_sigterm_under_load_from_64_clients_loses_no_request(attempt: int) -> None:
    """A request is answered, or its connection was never taken."""
    outcomes: list[str] = []

    async def send_until_refused(port: int) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except (ConnectionRefusedError, ConnectionResetError):  # reset between the last accept and the close
                return
            try:
                while (answer := await _ask(reader, writer)).keeps_open:
                    outcomes.append(answer.status)
                outcomes.append(answer.status)
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                outcomes.append(repr(error))
            finally:
                writer.close()

    async def send_from_64_clients(port: int) -> None:
        """In one thread: 64 of them would wait for each other longer than the service waits for them."""
        await asyncio.gather(*(send_until_refused(port) for _ in range(64)))

    with running_service("--drain-grace-ms", "1000") as service:  # who is silent that long is not waited for
        port = service.client.base_url.port
        clients = threading.Thread(target=lambda: asyncio.run(send_from_64_clients(port)))
        clients.start()
        wait_until(lambda: len(outcomes) > 100)
        status = service.stop()
        clients.join(60)
    assert status == 0
    assert set(outcomes) <= {"200", "429"}  # on a slow machine 64 clients may be more than it can do in time


def test_a_sigterm_that_comes_while_the_process_starts_is_not_lost() -> None:
    """Between its own handlers and uvicorn's; a worker that is hardly there when the service stops gets it there."""
    script = (
        "import gc, os, signal, sys; from aaserve.service.__main__ import main; "
        "gc.collect = lambda: os.kill(os.getpid(), signal.SIGTERM); sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", script, "--port", "0"], cwd=ROOT, timeout=60, capture_output=True)
    assert done.returncode == 0
