"""Step: does the card answer what PyTorch answers? Against float64 on the CPU, ‖found − expected‖ / ‖expected‖.

float32 lands far below 1e-3, TF32 near 3e-4 a layer, float16 between 1e-3 and 1e-2. What export allows is held against
the largest difference (export/judgement/parity.py). `host` lists the nodes that were left on the CPU, none of which
should be more than a shape's arithmetic.
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aaserve.export.judgement.parity import TOLERANCES
from aaserve.service.engine.runtime.session import left_to_the_cpu
from benchmarks.gpu.bundles import bundle, network, pixels
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.results import Results
from benchmarks.gpu.sessions import Bound, open_session, placement

ROWS = 4
# Words, the form of the network, TF32, options of the CUDA provider.
ON_CPU = (("fp32", "fp32", False, {}), ("fp16", "fp16", False, {}))
ON_CARD = (
    *(
        (f"{form}, {layout}", form, False, {"prefer_nhwc": number})
        for form in ("fp32", "fp16")
        for number, layout in enumerate(("nchw", "nhwc"))
    ),
    ("fp32, tf32, nchw", "fp32", True, {"prefer_nhwc": 0}),
    ("fp32, tf32, nhwc", "fp32", True, {"prefer_nhwc": 1}),
)


def run(plan: Plan, results: Results, work: Path) -> None:
    for name in plan.parity:
        for device in dict.fromkeys(("cpu", plan.device)):
            results.case(
                f"{name} torch, {device}, fp32",
                lambda name=name, device=device: _compared(_torch(name, device), name, "fp32", work),
            )
            for words, form, *how in ON_CPU if device == "cpu" else ON_CARD:
                results.case(
                    f"{name} onnxruntime, {device}, {words}",
                    lambda name=name, device=device, form=form, how=how: _onnx(name, device, form, *how, work),
                )


def expected(name: str, work: Path) -> np.ndarray:
    """Logits in float64, computed once."""
    path = work / "expected" / f"{name}.npy"
    if path.exists():
        return np.load(path)
    wrapped = network(name)
    exact = copy.deepcopy(wrapped.network).double()
    batch = torch.from_numpy(pixels(name, ROWS)).permute(0, 3, 1, 2).double()
    with torch.inference_mode():
        found = exact(batch * wrapped.scale.double() + wrapped.shift.double()).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, found)
    return found


def _torch(name: str, device: str) -> np.ndarray:
    model = copy.deepcopy(network(name)).to(device)
    with torch.inference_mode():
        return model(torch.from_numpy(pixels(name, ROWS)).to(device)).cpu().numpy()


def _onnx(name: str, device: str, form: str, tf32: bool, options: dict[str, int], work: Path) -> dict[str, Any]:
    model = bundle(name, form, work)
    session = open_session(model, device, tf32=tf32, **options)
    bound = Bound(session, {model.manifest.input.name: pixels(name, ROWS)}, (ROWS, *model.manifest.outputs[0].shape))
    bound()
    compared = _compared(bound.answer(), name, "fp16" if tf32 else model.manifest.precision, work)
    return {**compared, "nodes": placement(session), "host": left_to_the_cpu(session) if device != "cpu" else []}


def _compared(found: np.ndarray, name: str, precision: str, work: Path) -> dict[str, Any]:
    """Raises ArithmeticError if they differ by more than export allows at this precision."""
    wanted = expected(name, work)
    if not np.isfinite(found).all():
        raise ArithmeticError("not all logits are finite")
    worst = float(np.abs(found - wanted).max() / max(1.0, np.abs(wanted).max()))
    if worst > TOLERANCES[precision]:  # type: ignore[index]
        raise ArithmeticError(f"logits differ by {worst:.1e} of the largest")
    return {
        "relative_error": float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted)),
        "largest_difference": worst,
        "same_top_1": float((found.argmax(1) == wanted.argmax(1)).mean()),
    }
