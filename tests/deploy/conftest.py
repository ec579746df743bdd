"""Fixtures for deployment tests."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.manifests import COMBINATIONS, KUBERNETES, Resource, built, composed
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


@pytest.fixture(scope="session")
def combinations(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Resource]]:
    """What is built of each combination, and of the example of a canary."""
    folder = tmp_path_factory.mktemp("kubernetes")
    found = {name: composed(folder, *combination) for name, combination in COMBINATIONS.items()}
    return found | {"canary": built(KUBERNETES / "canary")}
