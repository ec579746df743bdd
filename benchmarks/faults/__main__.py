"""python -m benchmarks.faults --output FILE [--only NAME …]

What becomes of requests when something breaks under load: each must end exactly once, what the service shows of itself
must be true, and it must recover by itself. tests/faults runs the same, shorter.
"""

import argparse
import asyncio
import resource
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.circumstances import write_result
from benchmarks.faults.clock_set_back import clock_set_back
from benchmarks.faults.findings import Findings
from benchmarks.faults.hanging_model import hanging_model
from benchmarks.faults.killed_workers import killed_workers
from benchmarks.faults.leaving_clients import leaving_clients
from benchmarks.faults.no_disk import no_disk_for_logs
from benchmarks.faults.no_memory import no_memory_for_a_second_model
from benchmarks.faults.no_reader import nobody_reads_the_log
from benchmarks.faults.raising_model import raising_model
from benchmarks.faults.stopped_process import stopped_process

FULL = {
    "killed-workers": lambda: killed_workers(120.0),
    "raising-model": lambda: raising_model(60.0),
    "no-memory": lambda: no_memory_for_a_second_model(20.0),
    "no-disk": lambda: no_disk_for_logs(30.0),
    "no-reader": lambda: nobody_reads_the_log(30.0),
    "clock-set-back": lambda: clock_set_back(30.0),
    "stopped-process": lambda: stopped_process(10.0),
    "leaving-clients": lambda: leaving_clients(1000),
    "hanging-model": lambda: hanging_model(10.0),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__.splitlines()[2])
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--only", nargs="+", choices=FULL, default=list(FULL), metavar="NAME", help=", ".join(FULL))
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a thousand clients, for them and for the service
    console = Console()
    measured: dict[str, Findings] = {}
    for name in arguments.only:
        with console.status(f"{name} …"):
            measured[name] = _rounded(asyncio.run(FULL[name]()))
        failed = [sentence for sentence, holds in measured[name]["checks"].items() if not holds]  # type: ignore[attr-defined]
        console.print(f"{name}: {'; '.join(f'not: {sentence}' for sentence in failed) or 'all is true'}")
    console.print(_table(measured))
    write_result(arguments.output, {"faults": measured}, "onnxruntime", "fastapi", "uvicorn")
    return 0 if all(all(findings["checks"].values()) for findings in measured.values()) else 1  # type: ignore[attr-defined]


def _table(measured: dict[str, Findings]) -> Table:
    table = Table("fault", "sent", "ended", "recovery, longest")
    for name, findings in measured.items():
        ended = ", ".join(f"{outcome}: {count}" for outcome, count in findings["ended"].items())  # type: ignore[attr-defined]
        longest = max(findings["recovery_seconds"], default=None)  # type: ignore[call-overload]
        table.add_row(name, str(findings["sent"]), ended, "–" if longest is None else f"{longest:.2f} s")
    return table


def _rounded(findings: Findings) -> Findings:
    """Seconds to the millisecond."""
    return {
        key: [round(seconds, 3) for seconds in value]  # type: ignore[attr-defined]
        if key == "recovery_seconds"
        else round(value, 3)
        if isinstance(value, float)
        else value
        for key, value in findings.items()
    }


if __name__ == "__main__":
    sys.exit(main())
