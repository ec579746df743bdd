"""Step: does the card answer what PyTorch answers? Against float64 on the CPU, ‖found − expected‖ / ‖expected‖.

float32 lands far below 1e-3, TF32 near 3e-4 a layer, float16 between 1e-3 and 1e-2. What export allows is held against
the largest difference (export/parity.py). `host` lists the nodes that were left on the CPU, none of which should be
more than a shape's arithmetic.
"""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.bundles import bundle, network, pixels
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.results import Results
from benchmarks.gpu.sessions import Bound, on_the_host, open_session, placement
from export.parity import TOLERANCES

ROWS = 4


def run(plan: Plan, results: Results, work: Path) -> None:
    for name in plan.parity:
        results.case(f"{name} torch, cpu, fp32", lambda name=name: _compared(_torch(name, "cpu"), name, "fp32"))
        if plan.device == "cuda":
            results.case(f"{name} torch, cuda, fp32", lambda name=name: _compared(_torch(name, "cuda"), name, "fp32"))
        for device in dict.fromkeys(("cpu", plan.device)):
            for form in ("fp32", "fp16", "fp32-fused", "fp16-fused"):
                for tf32 in (False, True) if device == "cuda" and form.startswith("fp32") else (False,):
                    case = f"{name} onnxruntime, {device}, {form}{', tf32' if tf32 else ''}"
                    results.case(
                        case,
                        lambda name=name, device=device, form=form, tf32=tf32: _onnx(name, device, form, tf32, work),
                    )


@cache
def _expected(name: str) -> np.ndarray:
    exact = copy.deepcopy(network(name).network).double()
    wrapped = network(name)
    batch = torch.from_numpy(pixels(name, ROWS)).permute(0, 3, 1, 2).double()
    with torch.inference_mode():
        return exact(batch * wrapped.scale.double() + wrapped.shift.double()).numpy()


def _torch(name: str, device: str) -> np.ndarray:
    model = copy.deepcopy(network(name)).to(device)
    with torch.inference_mode():
        return model(torch.from_numpy(pixels(name, ROWS)).to(device)).cpu().numpy()


def _onnx(name: str, device: str, form: str, tf32: bool, work: Path) -> dict[str, Any]:
    model = bundle(name, form, work)
    session = open_session(model.model_path, device, tf32=tf32)
    bound = Bound(session, {model.manifest.input.name: pixels(name, ROWS)}, (ROWS, *model.manifest.output.shape))
    bound()
    compared = _compared(bound.answer(), name, "fp16" if tf32 else model.manifest.precision)
    return {**compared, "nodes": placement(session), "host": on_the_host(session) if device != "cpu" else []}


def _compared(found: np.ndarray, name: str, precision: str) -> dict[str, Any]:
    """Raises ArithmeticError if they differ by more than export allows at this precision."""
    expected = _expected(name)
    if not np.isfinite(found).all():
        raise ArithmeticError("not all logits are finite")
    worst = float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
    if worst > TOLERANCES[precision]:  # type: ignore[index]
        raise ArithmeticError(f"logits differ by {worst:.1e} of the largest")
    return {
        "relative_error": float(np.linalg.norm(found - expected) / np.linalg.norm(expected)),
        "largest_difference": worst,
        "same_top_1": float((found.argmax(1) == expected.argmax(1)).mean()),
    }
