"""Separate environments for packages whose pins conflict with ours, made on first use from requirements.

this environment --hard links--> packages that it has in the right version --> pip: only the others

pip spends most of its time on reading the index and on unpacking; for what is linked it does neither.
"""

import fcntl
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name


def make_environment(folder: Path, requirements: Path, constraints: Path | None = None) -> Path:
    """The interpreter in `folder` with `requirements` installed; made again if they have changed."""
    python = folder / "bin" / "python"
    folder.parent.mkdir(exist_ok=True)
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may need it at once
        if not is_made(folder, requirements, constraints):
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
            link_packages(_lines(requirements), folder, _lines(constraints))
            pip = [sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check"]
            bounds = ["--constraint", constraints] if constraints else []
            # Most installed files are never imported, and compiling them takes as long as the rest.
            install = [*pip, "install", "--no-compile", "--requirement", requirements, *bounds]
            try:
                subprocess.run(install, check=True, stderr=subprocess.PIPE, text=True)
            except subprocess.CalledProcessError as error:
                error.add_note(error.stderr)
                raise
            (folder / ".installed").write_bytes(_made_from(requirements, constraints))
    return python


def is_made(folder: Path, requirements: Path, constraints: Path | None = None) -> bool:
    """True if the environment exists and was made from these requirements."""
    installed = folder / ".installed"
    return installed.is_file() and installed.read_bytes() == _made_from(requirements, constraints)


def link_packages(requirements: list[str], folder: Path, constraints: list[str] | None = None) -> None:
    """Link what this environment has of `requirements`, and of what they require in turn, into the one in `folder`.

    A package in another version than asked for, or that this environment does not have, is left to pip, and pip has
    the last word on the others. Programs are not linked.
    """
    site_packages = Path(sysconfig.get_path("purelib", "venv", {"base": folder, "platbase": folder}))
    allowed: dict[str, SpecifierSet] = {}
    for requirement in map(Requirement, [*requirements, *(constraints or [])]):
        name = canonicalize_name(requirement.name)
        allowed[name] = allowed.get(name, SpecifierSet()) & requirement.specifier
    seen, waiting = set(), requirements.copy()
    while waiting:
        if (text := waiting.pop()) in seen:
            continue
        seen.add(text)
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            distribution = importlib.metadata.distribution(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if distribution.version in allowed.get(canonicalize_name(requirement.name), requirement.specifier):
            _link(distribution, site_packages)
            waiting += _required(distribution, requirement.extras)


def _link(distribution: importlib.metadata.Distribution, site_packages: Path) -> None:
    for file in distribution.files or []:
        linked = site_packages / file
        if ".." in file.parts or linked.exists():
            continue
        linked.parent.mkdir(parents=True, exist_ok=True)
        source = Path(str(distribution.locate_file(file)))
        try:
            os.link(source, linked)
        except FileNotFoundError:  # compiled, and removed since
            continue
        except OSError:  # on another file system
            shutil.copy2(source, linked)


def _required(distribution: importlib.metadata.Distribution, extras: set[str]) -> list[str]:
    """What it requires, without the markers."""
    found = []
    for requirement in map(Requirement, distribution.requires or []):
        marker, requirement.marker = requirement.marker, None
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ["", *extras]):
            found.append(str(requirement))
    return found


def _lines(requirements: Path | None) -> list[str]:
    return requirements.read_text().splitlines() if requirements else []


def _made_from(requirements: Path, constraints: Path | None) -> bytes:
    return requirements.read_bytes() + (constraints.read_bytes() if constraints else b"")
