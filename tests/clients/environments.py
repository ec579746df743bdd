"""Environments for what pins libraries which we pin otherwise: .venv-NAME, made on first use from NAME.txt."""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

from tests.helpers import ROOT


def environment(name: str, requirements_in: Path = Path(__file__).parent) -> Path:
    """The interpreter that has it installed."""
    folder = ROOT / f".venv-{name}"
    requirements = requirements_in / f"{name}.txt"
    installed = folder / ".installed"
    python = folder / "bin" / "python"
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may want it at once
        if not installed.is_file() or installed.read_bytes() != requirements.read_bytes():
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, "--requirement", requirements], check=True)
            shutil.copyfile(requirements, installed)
    return python
