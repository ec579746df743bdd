"""The conditions of a measurement: command, date, commit, machine and versions."""

import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "tests" / "repository"  # only aa-cifar100, so that results of different dates are comparable


def write_result(path: Path, measured: dict[str, object], *packages: str) -> None:
    """Write a measurement and its conditions as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**circumstances(*packages), **measured}, indent=2) + "\n")


def circumstances(*packages: str) -> dict[str, object]:
    """Command, date, machine, commit and the versions of those of `packages` that are installed."""
    return {
        "command": shlex.join(["python", "-m", _main_module(), *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _git("describe", "--always", "--dirty", "--abbrev=12"),
        "machine": f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {_memory()}, {platform.system()}",
        "versions": {"python": platform.python_version(), **_versions(packages)},
    }


def _versions(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _main_module() -> str:
    spec = sys.modules["__main__"].__spec__
    return spec.name.removesuffix(".__main__") if spec else "?"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor"
    )


def _memory() -> str:
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
