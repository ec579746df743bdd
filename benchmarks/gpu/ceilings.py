"""Step: what this card can do at most. A large product of matrices for arithmetic, large copies for memory.

On random data: on zeros a card is faster than it will ever be on pictures.
"""

from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.device import milliseconds
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.results import Results


def run(plan: Plan, results: Results, work: Path) -> None:
    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    for name, kind in kinds.items():
        results.case(f"product {name}", lambda kind=kind: _product(plan, kind))
    if plan.device == "cuda":
        results.case("product tf32", lambda: _tf32(plan))
    results.case("copy on the device", lambda: _copy(plan, plan.device, plan.device))
    results.case("copy to the device", lambda: _copy(plan, "cpu", plan.device))
    results.case("copy from the device", lambda: _copy(plan, plan.device, "cpu"))


def _product(plan: Plan, kind: torch.dtype) -> dict[str, Any]:
    a, b = (torch.randn(plan.product, plan.product, device=plan.device).to(kind) for _ in range(2))
    taken = milliseconds(lambda: a @ b, plan.device, plan.seconds)
    return {"side": plan.product, "ms": taken, "tflops": 2 * plan.product**3 / taken / 1e9}


def _tf32(plan: Plan) -> dict[str, Any]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return _product(plan, torch.float32)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _copy(plan: Plan, source: str, target: str) -> dict[str, Any]:
    """On the device bytes are read and written there; to and from it they cross the bus once."""
    on_card = "cuda" in (source, target)
    crossing = source != target
    size = plan.copied_bytes // 4 if crossing else plan.copied_bytes
    a = torch.randint(256, (size,), dtype=torch.uint8)
    a = a.pin_memory() if on_card and source == "cpu" else a.to(source)
    b = torch.empty(size, dtype=torch.uint8, device=target, pin_memory=on_card and target == "cpu")
    taken = milliseconds(lambda: b.copy_(a, non_blocking=True), plan.device, plan.seconds)
    return {"bytes": size, "ms": taken, "gb_per_second": size * (1 if crossing else 2) / taken / 1e6}
