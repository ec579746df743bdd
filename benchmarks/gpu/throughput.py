"""Step: time of a call over the batch size, ours against PyTorch, attention against none.

Ours in float16 from uint8 pixels, inputs and outputs on the device: `nhwc` computes convolutions channels last, `graph`
replays a CUDA graph. `as the service calls it` includes copies to and from the card, from several threads at once.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aaserve.service.engine.runtime.session import OnnxSession
from aaserve.service.settings import Settings
from benchmarks.gpu import pytorch
from benchmarks.gpu.bundles import bundle, pixels
from benchmarks.gpu.device import milliseconds
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.results import Results
from benchmarks.gpu.sessions import Bound, open_session

Prepare = Callable[[int], Callable[[], object]]  # rows in, a call on so many out


@dataclass(frozen=True)
class Way:
    """How ONNX Runtime computes: options of the CUDA provider, and whether it replays a CUDA graph."""

    options: dict[str, Any]
    cuda_graph: bool = False


WAYS = {
    "fp16, nhwc": Way({"prefer_nhwc": 1}),
    "fp16, nhwc, graph": Way({"prefer_nhwc": 1}, cuda_graph=True),
    "fp16, nchw": Way({"prefer_nhwc": 0}),
}


def run(plan: Plan, results: Results, work: Path) -> None:
    def curve(name: str, words: str, prepare: Callable[[], Prepare]) -> None:
        results.case(f"{name}, {words}", lambda: _curve(plan, prepare()))

    for name in (plan.augmented, plan.plain):
        for words, way in WAYS.items():
            curve(name, words, lambda name=name, way=way: _ours(name, way, plan, work))
        curve(name, "torch eager", lambda name=name: _eager(name, plan))
    for threads in (1, 2, 3):
        results.case(
            f"{plan.augmented}, fp16, as the service calls it, {threads} threads",
            lambda threads=threads: _as_the_service(threads, plan, work),
        )


def _curve(plan: Plan, prepare: Prepare) -> dict[str, Any]:
    def measured(rows: int) -> dict[str, Any]:
        taken = milliseconds(prepare(rows), plan.device, plan.seconds)
        return {"ms": taken, "images_per_second": rows / taken * 1000}

    return {"by_batch": {rows: measured(rows) for rows in plan.batches}}


def _ours(name: str, way: Way, plan: Plan, work: Path) -> Prepare:
    model = bundle(name, "fp16", work)
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
