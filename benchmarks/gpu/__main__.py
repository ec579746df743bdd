"""python -m benchmarks.gpu [STEP …] --device cuda|cpu [--output FILE]

    parity       logits of fp32, TF32 and fp16 on the device, compared with fp32 on the CPU
    throughput   images per second of the service's session by batch size, with 1 to 3 calling threads
    pytorch      the same for PyTorch, eager and compiled
    serving      the service over HTTP, by workers, lanes and clients; photographs of 100 kB
    memory       time to readiness; memory with a model, without it, and with it loaded again

The result file is written after each case. A case that fails is recorded with its error, and the next one runs; the
exit status is then 1. `--device cpu` is a small dry run: its figures say nothing about a GPU.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu.plan import PLANS, Plan, Results
from benchmarks.gpu.serving import memory, serving
from benchmarks.gpu.sessions import parity, pytorch, throughput
from benchmarks.harness.circumstances import ROOT

STEPS: dict[str, Callable[[Plan, Results], None]] = {
    "parity": parity,
    "throughput": throughput,
    "pytorch": pytorch,
    "serving": serving,
    "memory": memory,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="What the service does on a GPU.")
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)} (default: all)")
    parser.add_argument("--device", choices=PLANS, required=True, help="cpu: a small dry run")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "gpu.json", help="JSON (default: runs/gpu.json)")
    arguments = parser.parse_args()
    if unknown := set(arguments.steps) - set(STEPS):
        parser.error(f"no step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    facts = {"device": arguments.device}
    if arguments.device == "cpu":
        facts["note"] = "dry run on a CPU: its figures say nothing about a GPU"
    results = Results(arguments.output, facts)
    for step in arguments.steps or STEPS:
        STEPS[step](PLANS[arguments.device], results)
    for name in results.failed:
        print(f"failed: {name}", file=sys.stderr)
    return 1 if results.failed else 0


if __name__ == "__main__":
    sys.exit(main())
