"""A server and all that comes of it: started on given cores with its log in a file, ended to the last process.

Daemons leave the session and the process group of who started them, and Ray's also lose their parent when that is
killed first. So whoever has the mark in its environment belongs to the tree, and so do all descendants of the root.
"""

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 20.0  # seconds from SIGTERM to SIGKILL


@dataclass(frozen=True, slots=True)
class _Process:
    pid: int
    parent: int
    started: int  # in clock ticks since boot: tells it from another that gets its number later


@contextmanager
def process_tree(
    command: Sequence[str | Path], *, environment: Mapping[str, str], cores: Sequence[int] | None, folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` in `folder`, its output in `folder/log`; end all of it on leaving, whatever happened.

    Args:
        cores: those it may run on; all if None.
    """
    mark = f"BENCHMARK_TREE={secrets.token_hex(8)}"
    name, _, value = mark.partition("=")
    pinned = ["taskset", "--cpu-list", ",".join(map(str, cores))] if cores is not None else []  # execs: same process
    with (folder / "log").open("wb") as log:
        root = subprocess.Popen(
            [*pinned, *command],
            cwd=folder,
            env={**os.environ, **environment, name: value},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the driver, which then ends the tree
        )
    try:
        yield root
    finally:
        _end(root, mark.encode())


def tree(root: int) -> list[int]:
    """The process and all its descendants."""
    children: dict[int, list[int]] = {}
    for process in _running():
        children.setdefault(process.parent, []).append(process.pid)
    found = [root]
    for pid in found:  # grows while it is gone through
        found += children.get(pid, [])
    return found


def _end(root: subprocess.Popen[bytes], mark: bytes) -> None:
    descendants = set(tree(root.pid)) if root.poll() is None else set()
    members = {process.pid: process.started for process in _running() if process.pid in descendants}
    root.terminate()
    with suppress(subprocess.TimeoutExpired):
        root.wait(PATIENCE)
    while remaining := [
        process.pid for process in _running() if members.get(process.pid) == process.started or _has(mark, process.pid)
    ]:  # some start others
        for pid in remaining:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    root.wait()


def _has(mark: bytes, pid: int) -> bool:
    with suppress(OSError):
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


def _running() -> Iterator[_Process]:
    """All processes that are no zombies."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                yield _Process(int(folder.name), int(fields[1]), int(fields[19]))
