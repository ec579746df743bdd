"""Step: what PyTorch's own compiler makes of the same networks, `torch.compile(mode="max-autotune")`."""

from pathlib import Path
from typing import Any

from benchmarks.gpu.device import milliseconds
from benchmarks.gpu.limit import row
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.pytorch import call, compiled
from benchmarks.gpu.results import Results


def run(plan: Plan, results: Results, work: Path) -> None:
    def measured(name: str, rows: int) -> dict[str, Any]:
        once = call(compiled(name, plan.device), name, rows, plan.device)
        return row(name, rows, milliseconds(once, plan.device, plan.seconds), work)

    for rows in plan.compiled:
        for name in (plan.augmented, plan.plain):
            results.case(f"{name}, batch {rows}", lambda name=name, rows=rows: measured(name, rows))
