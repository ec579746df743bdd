"""How far a call is from the limit of the card: the larger of two times, of arithmetic and of memory.

By the ceilings that the step `ceilings` measured on the same card: operations (models/flops.py, two for each
multiply-add) over the rate of a large product, and bytes (weights once, what each convolution reads and writes) over
the rate of a copy. `of_limit` is that over the time of the call.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aaserve.models.flops import count_flops
from benchmarks.gpu.bundles import create_on_meta


def row(name: str, rows: int, taken: float, work: Path) -> dict[str, Any]:
    """What is written of a call that took so many milliseconds; the limit too, once there are ceilings."""
    found = {"ms": taken, "images_per_second": rows / taken * 1000}
    path = work / "results" / "ceilings.json"
    ceilings = json.loads(path.read_text())["cases"] if path.exists() else {}
    product, copy = (ceilings.get(case, {}) for case in ("product fp16", "copy on the device"))
    if "tflops" in product and "gb_per_second" in copy:
        operations, moved = work_of(name, rows)
        times = {"arithmetic": operations / product["tflops"] / 1e9, "memory": moved / copy["gb_per_second"] / 1e6}
        by = max(times, key=lambda which: times[which])
        found |= {"limit_ms": times[by], "limit_by": by, "of_limit": times[by] / taken}
    return found


def work_of(name: str, rows: int) -> tuple[float, float]:
    """Operations, and bytes in float16, of a batch; counted, nothing is computed."""
    made = create_on_meta(name).eval()
    values = 0

    def add(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal values
        values += inputs[0].numel() + output.numel()

    hooks = [
        module.register_forward_hook(add) for module in made.modules() if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    operations = count_flops(made, made.image_size).plain
    for hook in hooks:
        hook.remove()
    weights = sum(parameter.numel() for parameter in made.parameters())
    return operations * rows, 2.0 * (values * rows + weights)
