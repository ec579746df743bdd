"""Clients that others wrote, unmodified and from the package registry, against the service over a socket.

Each has an environment of its own (.venv-NAME, made on first use from NAME.txt): they pin libraries that we pin
otherwise. The files beside this one are their tests; they run there, and find the service in AASERVE_URL.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import EXAMPLES, ROOT, RunningService

FOLDER = Path(__file__).parent


@pytest.mark.parametrize("client", ["tritonclient", "kserve"])
def test_an_unmodified_client_gets_classifys_answers(service: RunningService, client: str) -> None:
    if client == "kserve" and sys.version_info >= (3, 14):
        pytest.skip("kserve 0.21 is not to be had for Python 3.14")
    done = subprocess.run(
        [environment(client), "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", FOLDER, "--noconftest"]
        + ["-p", "no:cacheprovider", FOLDER / f"{client}_client.py"],
        env={**os.environ, "AASERVE_URL": str(service.client.base_url), "PICTURES": str(EXAMPLES)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def environment(client: str) -> Path:
    """The interpreter that has the client installed."""
    folder = ROOT / f".venv-{client}"
    requirements = FOLDER / f"{client}.txt"
    installed = folder / ".installed"
    python = folder / "bin" / "python"
    if not installed.is_file() or installed.read_bytes() != requirements.read_bytes():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--requirement", requirements], check=True)
        shutil.copyfile(requirements, installed)
    return python
