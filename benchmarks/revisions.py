"""python -m benchmarks.revisions OLD [--workloads W1s W2s W3] [--rounds N] --output FILE.json

Compare the service of this working tree with that of an older revision. Both, and this one a second time, run side by
side and get the same load in alternating rounds. A ratio is significant only if it exceeds the ratio of the identical
pair.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from aaserve.service.http.inference import ADDRESSES
from benchmarks import overload
from benchmarks.harness.circumstances import ROOT, write_result
from benchmarks.harness.generator import Generator, post_request
from benchmarks.harness.workloads import WORKLOADS, Workload

Address = tuple[str, int]
OLD, NEW, AGAIN = "old", "new", "again"
DEADLINE_MS = 1000  # of requests in the overload measurement


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """A working tree of `revision`."""
    with tempfile.TemporaryDirectory(prefix="aaserve-revision-") as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), revision], cwd=ROOT, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


@contextmanager
def serving(old: Path, repository: Path) -> Iterator[dict[str, tuple[Address, int]]]:
    """Address and process id of three services: old tree, this tree, and this tree again."""
    with ExitStack() as stack:
        found = {}
        for name, tree in ((OLD, old), (NEW, ROOT), (AGAIN, ROOT)):
            host, port, process = stack.enter_context(
                overload.service(["--repository", str(repository)], None, tree=tree)
            )
            found[name] = ((host, port), process)
        yield found


def resident_mib(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


def rounds_of(names: list[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Each name once per round, starting with a different one each time; round 0 warms up."""
    for number in range(rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            yield number, name


def ratios(values: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, and median ratios within rounds with their range."""

    def ratio(one: str, other: str) -> dict[str, float]:
        found = [a / b for a, b in zip(values[one], values[other], strict=True)]
        return {
            "median": round(statistics.median(found), 3),
            "least": round(min(found), 3),
            "most": round(max(found), 3),
        }

    return {
        "medians": {name: round(statistics.median(found), 1) for name, found in values.items()},
        "new_over_old": ratio(NEW, OLD),
        "identical_pair": ratio(AGAIN, NEW),
    }


def closed_loop(old: Path, workload: Workload, clients: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Answers per second and 99th percentiles of `clients` in a closed loop."""
    headers = {"Content-Type": workload.media_type}
    requests = [post_request(ADDRESSES[workload.task], body, headers) for body in workload.pictures()]
    with serving(old, workload.bundle().parent.parent) as services:
        rates: dict[str, list[float]] = {name: [] for name in services}
        p99: dict[str, list[float]] = {name: [] for name in services}
        for number, name in rounds_of(list(services), rounds):
            with Generator([services[name][0]], requests) as generator:
                samples = generator.closed_loop(clients=clients, seconds=seconds)
            if number:
                rates[name].append(samples.answered_per_second)
                p99[name].append(float(np.percentile(samples.of(200), 99)) * 1000)
        memory = {name: resident_mib(process) for name, (_, process) in services.items()}
    return {"clients": clients, "answers_per_second": ratios(rates), "p99_ms": ratios(p99), "resident_mib": memory}


def overloaded(old: Path, workload: Workload, times: float, rounds: int, seconds: float) -> dict[str, Any]:
    """Timely answers per second while requests arrive at random at `times` the capacity of the old tree."""
    headers = {"Content-Type": workload.media_type, "X-Request-Timeout-Ms": str(DEADLINE_MS)}
    requests = [post_request("/classify", body, headers) for body in workload.pictures()]
    with serving(old, workload.bundle().parent.parent) as services:
        with Generator([services[OLD][0]], requests) as generator:
            capacity = generator.closed_loop(clients=overload.CLIENTS, seconds=seconds).answered_per_second
        good: dict[str, list[float]] = {name: [] for name in services}
        for number, name in rounds_of(list(services), rounds):
            with Generator([services[name][0]], requests) as generator:
                samples = generator.open_loop(per_second=times * capacity, seconds=seconds, seed=number)
            if number:
                good[name].append(int(np.count_nonzero(samples.of(200) <= DEADLINE_MS / 1000)) / seconds)
    return {"times_capacity": times, "sent_per_second": round(times * capacity), "in_time_per_second": ratios(good)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.revisions", description=__doc__.partition("\n\n")[2])
    add = parser.add_argument
    add("old", metavar="OLD", help="revision to compare with, such as main or a commit")
    add("--workloads", nargs="+", choices=list(WORKLOADS), default=["W1s", "W2s", "W3"])
    add("--clients", nargs="+", type=int, default=[8])
    add("--rounds", type=int, default=8)
    add("--seconds", type=float, default=2.0, help="duration of one round")
    add("--overload", type=float, default=0, metavar="TIMES", help="also send W2s at this multiple of the capacity")
    add("--output", type=Path, required=True, metavar="FILE")
    arguments = parser.parse_args()
    measured: dict[str, Any] = {"old": arguments.old}
    with checkout(arguments.old) as old:
        for name in arguments.workloads:
            measured[name] = [
                closed_loop(old, WORKLOADS[name], clients, arguments.rounds, arguments.seconds)
                for clients in arguments.clients
            ]
            print(name, measured[name], file=sys.stderr)
        if arguments.overload:
            measured["overload"] = overloaded(
                old, WORKLOADS["W2s"], arguments.overload, arguments.rounds, arguments.seconds
            )
            print(measured["overload"], file=sys.stderr)
    write_result(arguments.output, measured, "onnxruntime", "pillow", "uvicorn")
    return 0


if __name__ == "__main__":
    sys.exit(main())
