"""Environments for what pins libraries which we pin otherwise: made on first use from a file of pinned requirements."""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path


def make_environment(folder: Path, requirements: Path) -> Path:
    """The interpreter in `folder` that has `requirements` installed; made anew where they changed."""
    python = folder / "bin" / "python"
    folder.parent.mkdir(exist_ok=True)
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may want it at once
        if not is_made(folder, requirements):
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
            pip = [sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check"]
            # Most of what is installed is never imported, and compiling it takes as long as the rest.
            subprocess.run([*pip, "install", "--no-compile", "--requirement", requirements], check=True)
            shutil.copyfile(requirements, folder / ".installed")
    return python


def is_made(folder: Path, requirements: Path) -> bool:
    """Whether it is there, of these very requirements."""
    installed = folder / ".installed"
    return installed.is_file() and installed.read_bytes() == requirements.read_bytes()
