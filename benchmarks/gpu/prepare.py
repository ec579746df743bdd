"""python -m benchmarks.gpu.prepare bundles|compiled [--device cuda] [--work runs/gpu]: what takes minutes.

    bundles     networks --export--> bundles; float64 on the CPU --> expected logits
    compiled    torch.compile --> its cache

Nothing is measured. On a lent machine both go on while the wheels are still on their way; the steps make for themselves
what is not there.
"""

import argparse
from pathlib import Path
from time import monotonic

from benchmarks.circumstances import ROOT
from benchmarks.gpu.plan import FULL, SMALL


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.prepare", description="Bundles and caches.")
    parser.add_argument("what", choices=("bundles", "compiled"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "gpu", help="folder of bundles and results")
    arguments = parser.parse_args()
    plan = FULL if arguments.device == "cuda" else SMALL

    from benchmarks.gpu.bundles import FORMS, bundle
    from benchmarks.gpu.device import open_device
    from benchmarks.gpu.parity import expected
    from benchmarks.gpu.pytorch import call, compiled

    started = monotonic()

    def done(what: str) -> None:
        print(f"{monotonic() - started:6.1f} s  {what}", flush=True)

    if arguments.what == "compiled":
        open_device(arguments.device)
        for rows in plan.compiled:
            for name in (plan.augmented, plan.plain):
                call(compiled(name, plan.device), name, rows, plan.device)()
                done(f"compiled {name}, batch {rows}")
        return
    for name in dict.fromkeys((plan.augmented, plan.plain, *plan.parity)):
        for form in FORMS:
            bundle(name, form, arguments.work)
        if name in plan.parity:
            expected(name, arguments.work)
        done(f"bundles of {name}")


if __name__ == "__main__":
    main()
