"""A server with all its processes: started on given cores with the log in a file, and ended completely.

Daemons leave the session and the process group of their parent, and lose the parent when it ends first. But all
processes inherit the environment: a process with our mark in it belongs to the tree (like in
tests/deploy/ray_cluster.py).
"""

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

PATIENCE = 20.0  # seconds from SIGTERM to SIGKILL


@contextmanager
def process_tree(
    command: Sequence[str | Path], *, environment: Mapping[str, str], cores: Sequence[int] | None, folder: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` in `folder`, its output in `folder/log`; end all processes afterwards, also on SIGTERM.

    Args:
        cores: cores to run on; None: all.
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
        with _exit_on_sigterm():
            yield root
    finally:
        _end(root, mark.encode())


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that nothing keeps running; works in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def tree(root: int) -> list[int]:
    """The process and all its descendants, without zombies."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        with suppress(OSError):
            state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(pid)
    found = [root]
    for pid in found:  # grows during the loop
        found += children.get(pid, [])
    return found


def processor_seconds(root: int) -> float:
    """Processor time of the whole tree, including children that have ended and were waited for."""
    ticks = 0
    for process in tree(root):
        with suppress(OSError):
            ticks += sum(map(int, Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_bytes(root: int) -> int:
    """Memory of the whole tree. Pages that several processes share count once (Linux's Pss)."""
    total = 0
    for process in tree(root):
        with suppress(OSError):
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    return total


def _end(root: subprocess.Popen[bytes], mark: bytes) -> None:
    root.terminate()
    with suppress(subprocess.TimeoutExpired):
        root.wait(PATIENCE)
    while remaining := [pid for pid in _pids() if _has(mark, pid)]:  # repeat: some start others
        for pid in remaining:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    root.wait()


def _pids() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]


def _has(mark: bytes, pid: int) -> bool:
    """True if the process has the mark; a zombie has no environment any more."""
    with suppress(OSError):
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False
