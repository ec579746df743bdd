"""Does the graph answer what its original answers? ONNX Runtime against it, on real pictures.

    pixels --original--> exact logits --graph within the tolerance?--> Parity
                                      `--no--> how far off is the original itself in float32?--> wider, or refused

Two correct float32 runtimes differ from each other: they add up in another order. Usually by some 1e-6 of the largest
logit, but a deep network with large attention logits magnifies it.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from aaserve.bundle.manifest import AttentionMap, Parity, Precision
from aaserve.bundle.preprocessing import Preprocessing
from aaserve.export.errors import ExportError
from aaserve.export.graph.runtime import Graph
from aaserve.export.judgement.originals import BATCH, Original, difference, map_difference

# Relative to the largest logit. Below fp32 the loss of top-1 decides (export/judgement/loss.py) and this only tells a
# sound graph from a broken one: of 1,000 CIFAR pictures the worst was off by 0.004 in fp16, of 9,500 by 0.20 in int8
# (docs/decisions/0008-precision.md).
TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.5}
# Of a share of an attention map, which is 0..1; of 300 CIFAR pictures the worst was off by 0.002 in fp16, 0.13 in int8.
MAP_TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "int8": 0.3}
# How many times PyTorch's own float32 error a graph may be off. In 32 networks with attention logits of 1 to 200 times
# the usual size, correct graphs were off by up to 5.7 times.
MULTIPLE = 10
COARSEST = 3e-2  # never more than that; such a network is for float64
Answer = TypeVar("Answer")
MEASURED = 16  # pictures, those on which the graph is off most


def check_parity(
    original: Original,
    model: bytes,
    pixels: NDArray[np.uint8],
    preprocessing: Preprocessing,
    *,
    batch_sizes: Sequence[int],
    precision: Precision = "fp32",
    attention: Sequence[AttentionMap] = (),
    report: Callable[[str], None] = lambda text: None,
) -> Parity:
    """Compare the answers of a model with those of its original, see `compare_answers`."""
    return compare_answers(
        original,
        Graph(model, preprocessing),
        pixels,
        batch_sizes=batch_sizes,
        precision=precision,
        attention=attention,
        report=report,
    )


def compare_answers(
    original: Original,
    graph: Graph,
    pixels: NDArray[np.uint8],
    *,
    batch_sizes: Sequence[int],
    precision: Precision = "fp32",
    attention: Sequence[AttentionMap] = (),
    report: Callable[[str], None] = lambda text: None,
) -> Parity:
    """Compare both on each batch size; `pixels` (N, H, W, 3) are repeated where a batch is larger.

    Attention maps are compared whole, in batches of up to BATCH. Logits within the tolerance have the same best class,
    but for closer ties.

    Args:
        report: is told where float32 is so coarse that the tolerance had to grow.

    Raises:
        ExportError: a logit or a share of a map differs by more than the tolerance, or a value is not finite.
    """
    expected = original.logits(pixels)  # (N, num_classes)
    off, worst, worst_map, agreeing, compared = np.zeros(len(pixels)), 0.0, 0.0, 0, 0
    for size in batch_sizes:
        for index in whole_batches(len(pixels), size):
            found = asked(graph, pixels[index])
            if found.shape != expected[index].shape:
                raise ExportError(
                    f"parity at batch {size}: expected logits {expected[index].shape}, found {found.shape}"
                )
            if not np.isfinite(found).all() or not np.isfinite(expected).all():
                raise ExportError(f"parity at batch {size}: logits are not finite")
            worst = max(worst, difference(found, expected[index]))
            np.maximum.at(off, index, np.abs(found - expected[index]).max(axis=1))
            agreeing += int((found.argmax(1) == expected[index].argmax(1)).sum())
            compared += size
            if attention and size <= BATCH:
                maps = graph.maps(pixels[index], attention)
                worst_map = max(worst_map, map_difference(maps, original.maps(pixels[index])))
    tolerance, map_tolerance = TOLERANCES[precision], MAP_TOLERANCES[precision]
    if worst > tolerance or worst_map > map_tolerance:
        measured = pixels[off.argsort()[-MEASURED:]]
        own, own_map = original.float32_errors(measured, with_maps=bool(attention))
        widened = partial(_widened, original, precision, report)
        tolerance = widened("logits", worst, tolerance, own)
        map_tolerance = widened("attention maps", worst_map, map_tolerance, own_map)
    return Parity(
        images=len(pixels),
        batch_sizes=tuple(batch_sizes),
        max_difference=worst,
        tolerance=tolerance,
        top_1_agreement=agreeing / compared,
        attention_difference=worst_map if attention else None,
        attention_tolerance=map_tolerance if attention else None,
    )


def _widened(
    original: Original,
    precision: Precision,
    report: Callable[[str], None],
    what: str,
    worst: float,
    tolerance: float,
    own: float,
) -> float:
    """The tolerance for differences of up to `worst`, where the original's own in float32 are up to `own`."""
    if worst <= tolerance:
        return tolerance
    tolerance = max(tolerance, min(MULTIPLE * own, COARSEST))
    text = f"{what} differ by {worst:.1e} from {original.exact}; {original.inexact} differ by {own:.1e}"
    if worst > tolerance:
        lowered = "" if precision == "fp32" else f"{precision} is too coarse for this network, or "
        cause = (
            "float32 itself is too coarse for this network"
            if MULTIPLE * own >= worst
            else f"{lowered}the graph is wrong"
        )
        raise ExportError(f"parity: {text}, so {cause} (tolerance {tolerance:.0e})")
    report(f"warning: {text}: float32 is coarse for this network, so {tolerance:.0e} is allowed")
    return tolerance


def asked(graph: Callable[[NDArray[np.uint8]], Answer], pixels: NDArray[np.uint8]) -> Answer:
    """What the graph answers.

    Raises:
        ExportError: it fails.
    """
    try:
        return graph(pixels)
    except Exception as error:  # of ONNX Runtime, of many kinds
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ExportError(f"parity at batch {len(pixels)}: the graph fails: {reason}") from error


def whole_batches(count: int, size: int) -> Iterator[NDArray[np.int64]]:
    """The indices of all pictures in whole batches, the last filled up from the beginning."""
    yield from np.resize(np.arange(count), (-(-count // size), size))
