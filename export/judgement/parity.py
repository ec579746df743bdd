"""Does the graph give the answers of its original? ONNX Runtime compared with it, on real pictures.

    pixels --original--> exact logits --graph within the tolerance?--> Parity
                                      `--no--> how large is the original's own error in float32?--> wider, or refused

Two correct float32 runtimes differ, because they add in a different order: usually by about 1e-6 of the largest logit,
but a deep network with large attention logits amplifies it.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from aaserve.bundle.manifest import AttentionMap, Parity, Precision
from aaserve.export.errors import ExportError, first_line
from aaserve.export.graph.runtime import Graph
from aaserve.export.judgement.originals import BATCH, Original, difference, map_difference

# Relative to the largest logit. Below fp32 the loss of top-1 decides (export/judgement/loss.py); this tolerance only
# detects broken graphs: the largest error was 0.004 in fp16 on 1,000 CIFAR pictures, and 0.20 in int8 on 9,500
# (docs/decisions/0008-precision.md).
TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.5}
# Of the weights of an attention map, 0..1. The largest error on 300 CIFAR pictures was 0.002 in fp16 and 0.13 in int8.
MAP_TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "int8": 0.3}
# Allowed error of a graph, in multiples of PyTorch's float32 error. In 32 networks with attention logits of 1 to 200
# times the usual size, the errors of correct graphs were up to 5.7 times as large.
MULTIPLE = 10
COARSEST = 3e-2  # the upper limit; a network with a larger error needs float64
Answer = TypeVar("Answer")
MEASURED = 16  # pictures with the largest errors of the graph


def check_parity(
    original: Original,
    graph: Graph,
    pixels: NDArray[np.uint8],
    *,
    batch_sizes: Sequence[int],
    precision: Precision = "fp32",
    attention: Sequence[AttentionMap] = (),
    report: Callable[[str], None] = lambda text: None,
) -> Parity:
    """Compare both with each batch size; `pixels` (N, H, W, 3) are repeated if a batch is larger.

    Whole attention maps are compared, in batches of up to BATCH. Logits within the tolerance have the same best class,
    except for closer ties.

    Args:
        report: is called if float32 is so coarse that the tolerance was raised.

    Raises:
        ExportError: a logit or a map differs by more than the tolerance, or a value is not finite.
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
    """The tolerance for differences up to `worst`, if the original's own float32 error is up to `own`."""
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
    """The graph's answers.

    Raises:
        ExportError: it fails.
    """
    try:
        return graph(pixels)
    except Exception as error:  # of ONNX Runtime, of many kinds
        raise ExportError(f"parity at batch {len(pixels)}: the graph fails: {first_line(error)}") from error


def whole_batches(count: int, size: int) -> Iterator[NDArray[np.int64]]:
    """The indices of all pictures in full batches; the last one is filled from the beginning."""
    yield from np.resize(np.arange(count), (-(-count // size), size))
