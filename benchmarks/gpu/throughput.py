"""Step: time of a call over the batch size, ours against PyTorch, attention against none, and how far from the limit.

`limit_ms` is the larger of two times, by the ceilings that the step `ceilings` measured on the same card: operations
(models/flops.py, two for each multiply-add) over the rate of a large product, and bytes (weights once, what each
convolution reads and writes) over the rate of a copy. `of_limit` is that over the time of the call.
"""

import copy
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.bundles import bundle, create_on_meta, network, pixels
from benchmarks.gpu.device import milliseconds, wall_milliseconds
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.results import Results
from benchmarks.gpu.sessions import Bound, open_session
from models.flops import count_flops
from service.session import OnnxSession
from service.settings import Settings


def run(plan: Plan, results: Results, work: Path) -> None:
    gpu = plan.device == "cuda"
    ways: dict[str, Callable[[str, int], Callable[[], object]]] = {
        "fp16": lambda name, rows: _bound(name, "fp16", plan, rows, work),
        "fp16, fused": lambda name, rows: _bound(name, "fp16-fused", plan, rows, work),
        "torch eager": lambda name, rows: _torch(name, rows, plan.device),
    }
    if gpu:
        ways["fp16, graph"] = lambda name, rows: _bound(name, "fp16", plan, rows, work, cuda_graph=True)
        ways["fp16, fused, graph"] = lambda name, rows: _bound(name, "fp16-fused", plan, rows, work, cuda_graph=True)

    def timed(name: str, way: str, rows: int, prepare: Callable[[str, int], Callable[[], object]]) -> None:
        def measure() -> dict[str, Any]:
            return _row(name, rows, milliseconds(prepare(name, rows), plan.device, plan.seconds), work)

        results.case(f"{name}, {way}, batch {rows}", measure)

    for rows in plan.batches:
        for name in (plan.augmented, plan.plain):
            for way, prepare in ways.items():
                if name == plan.augmented or "fused" not in way:
                    timed(name, way, rows, prepare)
            results.case(
                f"{name}, as the service calls it, batch {rows}",
                lambda name=name, rows=rows: _row(name, rows, _service(name, plan, rows, work), work),
            )
    if gpu and find_spec("tensorrt_libs"):  # of which PyPI has no wheel for Python 3.12
        for rows in plan.compiled:
            timed(plan.augmented, "tensorrt", rows, lambda name, rows: _tensorrt(name, rows, work))
    for rows in plan.compiled:
        for name in (plan.augmented, plan.plain):
            timed(
                name,
                "torch.compile max-autotune",
                rows,
                lambda name, rows: _torch(name, rows, plan.device, compiled=True),
            )
    for name, row in list(results.cases.items()):
        network_name, _, rest = name.partition(", ")
        plain = results.cases.get(f"{plan.plain}, {rest.replace(', fused', '')}", {})
        if network_name == plan.augmented and "ms" in row and "ms" in plain:
            results.case(
                f"attention over none, {rest}", lambda row=row, plain=plain: {"times": row["ms"] / plain["ms"]}
            )


def _bound(name: str, form: str, plan: Plan, rows: int, work: Path, *, cuda_graph: bool = False) -> Bound:
    model = bundle(name, form, work)
    session = open_session(model.model_path, plan.device, cuda_graph=cuda_graph)
    bound = Bound(session, {model.manifest.input.name: pixels(name, rows)}, (rows, *model.manifest.output.shape))
    bound()
    if not (abs(bound.answer()) < float("inf")).all():
        raise ArithmeticError("not all logits are finite")
    return bound


def _tensorrt(name: str, rows: int, work: Path) -> Bound:
    model = bundle(name, "fp16", work)
    session = open_session(model.model_path, "tensorrt", trt_fp16_enable=True)
    return Bound(session, {model.manifest.input.name: pixels(name, rows)}, (rows, *model.manifest.output.shape))


def _torch(name: str, rows: int, device: str, *, compiled: bool = False) -> Callable[[], object]:
    wrapped = copy.deepcopy(network(name))
    half = torch.float16 if device == "cuda" else torch.float32
    model = wrapped.to(device, half, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = torch.from_numpy(pixels(name, rows)).to(device)

    def forward(image: torch.Tensor) -> torch.Tensor:
        x = image.permute(0, 3, 1, 2).to(half)
        return model.network(x * model.scale + model.shift)

    step = torch.compile(forward, mode="max-autotune") if compiled else forward

    def call() -> torch.Tensor:
        with torch.inference_mode():
            return step(batch)

    return call


def _service(name: str, plan: Plan, rows: int, work: Path) -> float:
    settings = Settings(provider=plan.device, max_batch_size=rows)
    session = OnnxSession(bundle(name, "fp16", work), settings)
    batch = pixels(name, rows)
    return wall_milliseconds(lambda: session.run(batch), plan.seconds)


def _row(name: str, rows: int, taken: float, work: Path) -> dict[str, Any]:
    row = {"ms": taken, "images_per_second": rows / taken * 1000}
    ceilings = work / "results" / "ceilings.json"
    found = json.loads(ceilings.read_text())["cases"] if ceilings.exists() else {}
    if {"tflops"} <= set(found.get("product fp16", {})) and "gb_per_second" in found.get("copy on the device", {}):
        operations, moved = work_of(name, rows)
        arithmetic = operations / found["product fp16"]["tflops"] / 1e9
        memory = moved / found["copy on the device"]["gb_per_second"] / 1e6
        limit = max(arithmetic, memory)
        row |= {"limit_ms": limit, "limit_by": "arithmetic" if arithmetic > memory else "memory"}
        row |= {"of_limit": limit / taken}
    return row


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
