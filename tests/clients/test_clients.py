"""Clients that others wrote, unmodified and from the package registry, against the service over a socket.

The files NAME_client.py are their tests; they run where the client is installed, and find the service in AASERVE_URL.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.environments import environment
from tests.helpers import EXAMPLES, RunningService, running_service

KEY = "a key for admin and infer"
FOLDER = Path(__file__).parent
ALONE = ["-c", os.devnull, "--rootdir", FOLDER, "--noconftest", "-p", "no:cacheprovider"]  # nothing of our pytest


@pytest.fixture(scope="module")
def changeable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service whose models a key can change."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"admin,infer {hashlib.sha256(KEY.encode()).hexdigest()}\n")
    with running_service("--api-keys-file", str(keys)) as running:
        yield running


@pytest.mark.parametrize("client", ["tritonclient", "kserve"])
def test_an_unmodified_client_gets_classifys_answers(changeable: RunningService, client: str) -> None:
    if client == "kserve" and sys.version_info >= (3, 14):
        pytest.skip("kserve 0.21 is not available for Python 3.14")
    done = subprocess.run(
        [environment(client), "-m", "pytest", "-q", *ALONE, FOLDER / f"{client}_client.py"],
        env={**os.environ, "AASERVE_URL": str(changeable.client.base_url), "PICTURES": str(EXAMPLES), "KEY": KEY},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
