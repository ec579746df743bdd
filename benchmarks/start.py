"""python -m benchmarks.start --output FILE [--starts 5]

The cost of a service without requests: time to readiness, processor time at rest, and memory.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rich.progress import track

from benchmarks.harness.circumstances import ROOT, write_result
from benchmarks.harness.process_tree import processor_seconds

REST = 5.0  # seconds


def start() -> dict[str, float]:
    """Elapsed and processor seconds until ready; share of a core at rest; resident MiB."""
    started = time.monotonic()
    command = [sys.executable, "-m", "service", "--port", "0", "--log-format", "console"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            if not any(line.rstrip().endswith("aaserve ready") for line in iter(process.stderr.readline, "")):
                raise SystemExit("error: the service did not start")
            ready, processor = time.monotonic() - started, processor_seconds(process.pid)
            time.sleep(1)  # until work after readiness has ended
            before = processor_seconds(process.pid)
            time.sleep(REST)
            at_rest = (processor_seconds(process.pid) - before) / REST
            return {
                "seconds_to_ready": ready,
                "processor_seconds_to_ready": processor,
                "cores_at_rest": at_rest,
                "resident_mib": resident_mib(process.pid),
            }
        finally:
            process.terminate()


def resident_mib(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__.splitlines()[2])
    parser.add_argument("--starts", type=int, default=5, help="number of starts; the median counts (default: 5)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    starts = [start() for _ in track(range(arguments.starts), description="starting")]
    medians = {name: round(statistics.median(one[name] for one in starts), 3) for name in starts[0]}
    write_result(arguments.output, {"starts": arguments.starts, **medians}, "onnxruntime", "fastapi", "uvicorn")
    for name, value in medians.items():
        print(f"{name:<28} {value:10.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
