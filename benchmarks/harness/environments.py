"""Separate environments for packages whose pins conflict with ours, made on first use from pinned requirements."""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path


def make_environment(folder: Path, requirements: Path) -> Path:
    """The interpreter in `folder` with `requirements` installed; made again if they have changed."""
    python = folder / "bin" / "python"
    folder.parent.mkdir(exist_ok=True)
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may need it at once
        if not is_made(folder, requirements):
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
            pip = [sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check"]
            # Most installed files are never imported, and compiling them takes as long as the rest.
            subprocess.run([*pip, "install", "--no-compile", "--requirement", requirements], check=True)
            shutil.copyfile(requirements, folder / ".installed")
    return python


def is_made(folder: Path, requirements: Path) -> bool:
    """True if the environment exists and was made from these requirements."""
    installed = folder / ".installed"
    return installed.is_file() and installed.read_bytes() == requirements.read_bytes()
