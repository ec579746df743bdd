"""Clients that others wrote, unmodified and from the package registry, against the service over a socket.

The files NAME_client.py are their tests; they run where the client is installed, and find the service in AASERVE_URL.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.environments import environment
from tests.helpers import EXAMPLES, RunningService

FOLDER = Path(__file__).parent
ALONE = ["-c", os.devnull, "--rootdir", FOLDER, "--noconftest", "-p", "no:cacheprovider"]  # nothing of our pytest


@pytest.mark.parametrize("client", ["tritonclient", "kserve"])
def test_an_unmodified_client_gets_classifys_answers(service: RunningService, client: str) -> None:
    if client == "kserve" and sys.version_info >= (3, 14):
        pytest.skip("kserve 0.21 is not to be had for Python 3.14")
    done = subprocess.run(
        [environment(client), "-m", "pytest", "-q", *ALONE, FOLDER / f"{client}_client.py"],
        env={**os.environ, "AASERVE_URL": str(service.client.base_url), "PICTURES": str(EXAMPLES)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
