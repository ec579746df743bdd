"""python -m benchmarks.gpu [STEP …] --device cuda|cpu [--work runs/gpu] [--max-minutes 7] [--retry]

    parity --> serving --> throughput --> memory

Each step writes WORK/results/STEP.json after each of its cases. When the time is up the command ends with status 75,
and the same command again goes on where it was. Status 1: all is done, and some cases failed; the files say why, and
`--retry` tries them again.
`--device cpu` is the dry run: small, everywhere, and its figures say nothing of a card.
"""

import argparse
import sys
import time
from importlib import import_module
from pathlib import Path

from benchmarks.circumstances import ROOT
from benchmarks.gpu.plan import FULL, SMALL

STEPS = ("parity", "serving", "throughput", "memory")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="What the service does on a GPU.")
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)} (default: all)")
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True, help="cpu: a small dry run")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "gpu", help="folder of bundles and results")
    parser.add_argument("--max-minutes", type=float, default=7, help="begin no case after that (default: 7)")
    parser.add_argument("--retry", action="store_true", help="try the cases again that failed")
    arguments = parser.parse_args()
    if unknown := set(arguments.steps) - set(STEPS):
        parser.error(f"no step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    deadline = time.monotonic() + arguments.max_minutes * 60
    work = arguments.work.resolve()

    from benchmarks.gpu.device import open_device  # torch: takes seconds, and --help needs none of it
    from benchmarks.gpu.results import Results

    facts = open_device(arguments.device)
    plan = FULL if arguments.device == "cuda" else SMALL
    left, failed = [], []
    for step in arguments.steps or STEPS:
        results = Results(work / "results" / f"{step}.json", deadline, facts, retry=arguments.retry)
        import_module(f"benchmarks.gpu.{step}").run(plan, results, work)
        left += [f"{step}: {name}" for name in results.left]
        failed += [f"{step}: {name}" for name in results.failed]
    for name in failed:
        print(f"failed: {name}", file=sys.stderr)
    if left:
        print(f"the time is up; left: {len(left)} cases, {left[0]} next", file=sys.stderr)
        return 75
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
