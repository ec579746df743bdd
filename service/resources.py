"""What the machine grants this process: processor cores, open files, processes of its own."""

import logging
import math
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
RESERVED = 128  # for bundles, logs, threads, pipes and what is being opened
log = logging.getLogger("aaserve")


def available_cores(cgroup: Path = CGROUP) -> int:
    """Whole cores, at least 1; half a core of quota counts as one."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return affinity if quota is None else max(1, min(affinity, math.ceil(quota)))


def _quota(cgroup: Path) -> float | None:
    """Cores that the control group grants, of version 2 or 1; None if it sets no limit."""
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if quota not in ("max", "-1") else None
    except (OSError, ValueError):
        return None  # no control groups here, or none that can be read


def allowed_connections(wanted: int) -> int:
    """Raise the process's own limit as far as it may for `wanted` connections; return how many there may be.

    Without room for the next one the event loop could not even take a connection to refuse it.
    """
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError as error:  # a sandbox may forbid it
        log.warning("the limit of open files cannot be read (%s); max_connections stays %d", error.strerror, wanted)
        return wanted
    needed = wanted + RESERVED
    if soft != resource.RLIM_INFINITY and soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(OSError, ValueError):  # likewise; what that costs is said below
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    allowed = max(1, soft - RESERVED)
    log.warning("max_connections is %d, and the limit of open files (%d) allows %d", wanted, soft, allowed)
    return allowed


def own_python(module: str) -> list[str]:
    """The command that runs a module of ours in a process of its own, with `own_path` in its environment.

    Without -P, Python would import what lies in the current folder first, such as a user's `json.py`.
    """
    return [sys.executable, "-P", "-m", module]


def own_path() -> dict[str, str]:
    """The environment in which such a process finds the modules that this one has."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
