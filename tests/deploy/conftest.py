"""Fixtures for deployment tests."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT


@pytest.fixture(scope="session")
def ray_programs() -> Path:
    """The folder of programs of an environment that has Ray and the service."""
    with (ROOT / ".venv-ray.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process of the same test run may be making it
        made = subprocess.run(
            ["make", f"PYTHON={sys.executable}", ".venv-ray/.installed"], cwd=ROOT, capture_output=True, text=True
        )
    if made.returncode:
        pytest.skip(f"Ray could not be installed: {made.stderr.strip().splitlines()[-1:]}")
    return ROOT / ".venv-ray" / "bin"
