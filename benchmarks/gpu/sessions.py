"""The steps without a server: the service's session on the device, and PyTorch."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import aaserve.bundle.telemetry  # noqa: F401  (before onnxruntime)
from aaserve.bundle.bundle import open_bundle
from aaserve.export.judgement.parity import TOLERANCES
from aaserve.service.engine.runtime.session import OnnxSession
from aaserve.service.settings import Settings
from benchmarks.gpu.plan import Plan, Results, Row
from benchmarks.harness.random_bundles import described_network, random_bundle

ROWS = 4  # images in the parity step


def parity(plan: Plan, results: Results) -> None:
    for network in plan.networks:
        for precision, tf32 in (("fp32", False), ("fp32", True), ("fp16", False)):
            if not tf32 or plan.device == "cuda":
                words = "tf32" if tf32 else precision
                results.case(
                    f"parity, {network}, {words}",
                    lambda network=network, precision=precision, tf32=tf32: compared(plan, network, precision, tf32),
                )


def compared(plan: Plan, network: str, precision: str, tf32: bool) -> Row:
    """Differences from fp32 on the CPU, which the export has compared with PyTorch.

    Raises:
        ArithmeticError: they are larger than the export allows in this precision.
    """
    exact = _session(network, "fp32", Settings(provider="cpu"))
    session = _session(network, precision, Settings(provider=plan.device, tf32=tf32, max_batch_size=ROWS))
    batch = _pixels(network, ROWS)
    expected, found = (next(iter(each.run(batch).values())) for each in (exact, session))  # (ROWS, classes)
    worst = float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
    allowed = TOLERANCES["fp16" if tf32 else precision]  # type: ignore[index]
    if not worst <= allowed:  # NaN fails too
        raise ArithmeticError(f"expected logits within {allowed:.0e} of the largest, found {worst:.1e}")
    return {
        "relative_error": float(np.linalg.norm(found - expected) / np.linalg.norm(expected)),
        "largest_difference": worst,
        "same_top_1": float((found.argmax(1) == expected.argmax(1)).mean()),
    }


def throughput(plan: Plan, results: Results) -> None:
    for network in plan.networks:
        for threads in (1, 2, 3):
            results.case(
                f"throughput, {network}, fp16, {threads} threads",
                lambda network=network, threads=threads: session_rates(plan, network, threads),
            )


def session_rates(plan: Plan, network: str, threads: int) -> Row:
    """Images per second by batch size. Each of `threads` calls again at once; copies to and from the GPU count."""
    session = _session(network, "fp16", Settings(provider=plan.device, max_batch_size=max(plan.batches)))
    return _by_batch(plan, network, session.run, threads)


def pytorch(plan: Plan, results: Results) -> None:
    for network in plan.networks:
        for how in ("eager", "compiled") if plan.device == "cuda" else ("eager",):
            results.case(
                f"pytorch, {network}, fp16, {how}",
                lambda network=network, how=how: pytorch_rates(plan, network, compiled=how == "compiled"),
            )


def pytorch_rates(plan: Plan, network: str, *, compiled: bool) -> Row:
    """As `session_rates` with one thread: float16 and channels last; pixels are normalised on the device."""
    import torch

    from aaserve.models import create_model

    described = described_network(network)
    half = torch.float16 if plan.device == "cuda" else torch.float32
    model = create_model(described["architecture"], **described["options"]).eval()
    model = model.to(plan.device, half, memory_format=torch.channels_last)  # type: ignore[call-overload]
    forward = torch.compile(model) if compiled else model

    def call(pixels: np.ndarray) -> object:
        with torch.inference_mode():
            rows = torch.from_numpy(pixels).to(plan.device).permute(0, 3, 1, 2).to(half)
            return forward((rows - 127.5) / 64).cpu()

    return _by_batch(plan, network, call, threads=1)


def _by_batch(plan: Plan, network: str, call: Callable[[np.ndarray], object], threads: int) -> Row:
    """Images per second by batch size of threads that call again at once."""
    found = {}
    for rows in plan.batches:
        batch = _pixels(network, rows)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(call, [batch] * 2 * threads))
            end = time.monotonic() + plan.seconds

            def calls(_: int, end: float = end, batch: np.ndarray = batch) -> int:
                number = 0
                while time.monotonic() < end:
                    call(batch)
                    number += 1
                return number

            started = time.monotonic()
            found[rows] = sum(pool.map(calls, range(threads))) * rows / (time.monotonic() - started)
    return {"images_per_second": found}


def _session(network: str, precision: str, settings: Settings) -> OnnxSession:
    return OnnxSession(
        open_bundle(random_bundle(network, precision)), settings, fixed_shapes=settings.provider != "cpu"
    )


def _pixels(network: str, rows: int) -> np.ndarray:
    """Random images (rows, H, W, 3), ready for the model."""
    shape = open_bundle(random_bundle(network)).manifest.input.shape
    return np.random.default_rng(0).integers(0, 256, (rows, *shape), dtype=np.uint8)
