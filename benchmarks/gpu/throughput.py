"""Step: time of a call over the batch size, ours against PyTorch, attention against none, and how far from the limit.

Ours in float16 from uint8 pixels, inputs and outputs on the device: `nhwc` computes convolutions channels last, `graph`
replays a CUDA graph. `as the service calls it` includes copies to and from the card, from several threads at once.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aaserve.service.engine.session import OnnxSession
from aaserve.service.settings import Settings
from benchmarks.gpu import pytorch
from benchmarks.gpu.bundles import bundle, pixels
from benchmarks.gpu.device import milliseconds
from benchmarks.gpu.limit import row
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.results import Results
from benchmarks.gpu.sessions import Bound, open_session

Prepare = Callable[[int], Callable[[], object]]  # rows in, a call on so many out


@dataclass(frozen=True)
class Way:
    """A form of the network, options of the CUDA provider, and whether a few batch sizes are enough to judge it."""

    form: str
    cuda_graph: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    few: bool = False


NHWC, NCHW = {"prefer_nhwc": 1}, {"prefer_nhwc": 0}
WAYS = {
    "fp16, nhwc": Way("fp16", options=NHWC),
    "fp16, nhwc, graph": Way("fp16", True, NHWC),
    "fp16, nchw": Way("fp16", options=NCHW),
    "fp16, nhwc, exhaustive search": Way("fp16", options={**NHWC, "cudnn_conv_algo_search": "EXHAUSTIVE"}, few=True),
    "fp16, nhwc, bias fused": Way("fp16", options={**NHWC, "fuse_conv_bias": 1}, few=True),
    "fp16, nhwc, no tf32": Way("fp16", options={**NHWC, "use_tf32": 0}, few=True),
    "fp32, nhwc": Way("fp32", options=NHWC, few=True),
}


def run(plan: Plan, results: Results, work: Path) -> None:
    def curve(name: str, words: str, batches: Sequence[int], prepare: Callable[[], Prepare]) -> None:
        results.case(f"{name}, {words}", lambda: _curve(name, batches, plan, work, prepare()))

    def ours(name: str, ways: Mapping[str, Way]) -> None:
        for words, way in ways.items():
            batches = plan.few_batches if way.few else plan.batches
            curve(name, words, batches, lambda way=way: _ours(name, way, plan, work))

    for name in (plan.augmented, plan.plain):
        ours(name, WAYS)
        curve(name, "torch eager", plan.batches, lambda name=name: _eager(name, plan))
    if plan.device == "cuda" and find_spec("tensorrt_libs"):  # of which PyPI has no wheel
        curve(plan.augmented, "tensorrt", plan.few_batches, lambda: _tensorrt(plan, work))
    for threads in (1, 2, 3):
        results.case(
            f"{plan.augmented}, fp16, as the service calls it, {threads} threads",
            lambda threads=threads: _as_the_service(threads, plan, work),
        )


def _curve(name: str, batches: Sequence[int], plan: Plan, work: Path, prepare: Prepare) -> dict[str, Any]:
    def measured(rows: int) -> dict[str, Any]:
        return row(name, rows, milliseconds(prepare(rows), plan.device, plan.seconds), work)

    return {"by_batch": {rows: measured(rows) for rows in batches}}


def _ours(name: str, way: Way, plan: Plan, work: Path) -> Prepare:
    model = bundle(name, way.form, work)
    options = way.options if plan.device == "cuda" else {}
    graph = way.cuda_graph and plan.device == "cuda"
    session = open_session(model, plan.device, cuda_graph=graph, **options)

    def prepare(rows: int) -> Bound:
        inputs = {model.manifest.input.name: pixels(name, rows)}
        bound = Bound(session, inputs, (rows, *model.manifest.outputs[0].shape), graph=rows if graph else None)
        bound()
        if not (abs(bound.answer()) < float("inf")).all():
            raise ArithmeticError("not all logits are finite")
        return bound

    return prepare


def _tensorrt(plan: Plan, work: Path) -> Prepare:
    model = bundle(plan.augmented, "fp16", work)
    session = open_session(model, "tensorrt", trt_fp16_enable=True)
    manifest = model.manifest
    return lambda rows: Bound(
        session, {manifest.input.name: pixels(plan.augmented, rows)}, (rows, *manifest.outputs[0].shape)
    )


def _eager(name: str, plan: Plan) -> Prepare:
    forward = pytorch.eager(name, plan.device)
    return lambda rows: pytorch.call(forward, name, rows, plan.device)


def _as_the_service(threads: int, plan: Plan, work: Path) -> dict[str, Any]:
    """Images per second by batch size, of `threads` that each call again as soon as they are answered."""
    settings = Settings(provider=plan.device, max_batch_size=plan.served_batch)
    session = OnnxSession(bundle(plan.augmented, "fp16", work), settings, fixed_shapes=True)
    found = {}
    for rows in session.warm_sizes:
        batch = pixels(plan.augmented, rows)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(session.run, [batch] * 2 * threads))
            end = time.monotonic() + plan.seconds

            def calls(end: float = end, batch: Any = batch) -> int:
                number = 0
                while time.monotonic() < end:
                    session.run(batch)
                    number += 1
                return number

            started = time.monotonic()
            counted = [future.result() for future in [pool.submit(calls) for _ in range(threads)]]
            found[rows] = sum(counted) * rows / (time.monotonic() - started)
    return {"images_per_second": found}
