"""What the process has around it when it starts: signals that come early, and standard streams that are closed."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.helpers import REPOSITORY, ROOT, wait_until

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs Linux's /proc")


def test_a_hangup_while_the_program_is_being_loaded_does_not_end_it() -> None:
    command = [sys.executable, "-m", "service", "--port", "0", "--repository", str(REPOSITORY)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        hangup = 1 << (signal.SIGHUP - 1)
        status = Path(f"/proc/{process.pid}/status")
        wait_until(lambda: int(re.findall(r"SigCgt:\s*(\w+)", status.read_text())[0], 16) & hangup)
        process.send_signal(signal.SIGHUP)
        assert "listening on" in process.stderr.readline()
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_service_without_standard_streams_serves() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = f'exec "$0" -m service --port {port} --repository "$1" <&- >&- 2>&-'
    process = subprocess.Popen(["bash", "-c", command, sys.executable, str(REPOSITORY)], cwd=ROOT)

    def live() -> bool:
        assert process.poll() is None
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=60).status_code == 200
        except httpx.ConnectError:
            return False

    try:
        wait_until(live)
        assert Path(f"/proc/{process.pid}/fd/2").readlink() == Path(os.devnull)
    finally:
        process.terminate()
        assert process.wait(60) == 0
