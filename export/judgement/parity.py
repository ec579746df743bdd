"""Does the graph answer what the network answers? ONNX Runtime against PyTorch in float64, on real pictures.

    pixels --network in float64--> exact logits --graph within the tolerance?--> Parity
                                                `--no--> how far off is PyTorch in float32?--> wider, or refused

Two correct float32 runtimes differ from each other: they add up in another order. Usually by some 1e-6 of the largest
logit, but a deep network with large attention logits magnifies it.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aaserve.bundle.manifest import AttentionMap, Parity, Precision
from aaserve.bundle.preprocessing import Preprocessing
from aaserve.export.errors import ExportError
from aaserve.export.graph.runtime import Graph
from aaserve.models.attention_maps import attention_maps

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
MEASURED = 16  # pictures, those on which the graph is off most
ROUNDINGS = 4  # networks whose weights are rounded otherwise; one run alone understates the error up to 27 times
BATCH = 2  # rows, of float64 and of attention maps: PyTorch's of a large batch would fill the memory


def check_parity(
    network: nn.Module,
    model: bytes,
    pixels: NDArray[np.uint8],
    preprocessing: Preprocessing,
    *,
    batch_sizes: Sequence[int],
    precision: Precision = "fp32",
    attention: Sequence[AttentionMap] = (),
    report: Callable[[str], None] = lambda text: None,
) -> Parity:
    """Compare both on each batch size; `pixels` (N, H, W, 3) are repeated where a batch is larger.

    PyTorch gets pixels that are normalised in float64, whatever input the graph takes. Attention maps are compared
    whole, in batches of up to BATCH. Logits within the tolerance have the same best class, but for closer ties.

    Args:
        report: is told where float32 is so coarse that the tolerance had to grow.

    Raises:
        ExportError: a logit or a share of a map differs by more than the tolerance, or a value is not finite.
    """
    graph, exact = Graph(model, preprocessing), in_float64(network)
    expected = _logits(exact, pixels, preprocessing)  # (N, num_classes)
    off, worst, worst_map, agreeing, compared = np.zeros(len(pixels)), 0.0, 0.0, 0, 0
    for size in batch_sizes:
        for index in _batches(len(pixels), size):
            found = graph(pixels[index])
            if found.shape != expected[index].shape:
                raise ExportError(
                    f"parity at batch {size}: expected logits {expected[index].shape}, found {found.shape}"
                )
            if not np.isfinite(found).all() or not np.isfinite(expected).all():
                raise ExportError(f"parity at batch {size}: logits are not finite")
            worst = max(worst, _difference(found, expected[index]))
            np.maximum.at(off, index, np.abs(found - expected[index]).max(axis=1))
            agreeing += int((found.argmax(1) == expected[index].argmax(1)).sum())
            compared += size
            if attention and size <= BATCH:
                exact_maps = _maps(exact, normalise_exactly(pixels[index], preprocessing))
                worst_map = max(worst_map, _map_difference(graph.maps(pixels[index], attention), exact_maps))
    tolerance, map_tolerance = TOLERANCES[precision], MAP_TOLERANCES[precision]
    if worst > tolerance or worst_map > map_tolerance:
        measured = pixels[off.argsort()[-MEASURED:]]
        own, own_map = _float32_errors(network, exact, measured, preprocessing, with_maps=bool(attention))
        tolerance = _widened("logits", worst, tolerance, own, precision, report)
        map_tolerance = _widened("attention maps", worst_map, map_tolerance, own_map, precision, report)
    return Parity(
        images=len(pixels),
        batch_sizes=tuple(batch_sizes),
        max_difference=worst,
        tolerance=tolerance,
        top_1_agreement=agreeing / compared,
        attention_difference=worst_map if attention else None,
        attention_tolerance=map_tolerance if attention else None,
    )


def in_float64(network: nn.Module) -> nn.Module:
    """A copy of `network` that computes in float64."""
    return copy.deepcopy(network).double().eval()


def normalise_exactly(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> Tensor:
    """As `bundle.preprocessing.normalise`, in float64: uint8 (..., H, W, 3) to (..., 3, H, W)."""
    scaled = (pixels / 255 - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(scaled, -1, -3)))


def _widened(
    what: str, worst: float, tolerance: float, own: float, precision: Precision, report: Callable[[str], None]
) -> float:
    """The tolerance for differences of up to `worst`, where those of PyTorch in float32 are up to `own`."""
    if worst <= tolerance:
        return tolerance
    tolerance = max(tolerance, min(MULTIPLE * own, COARSEST))
    text = f"{what} differ by {worst:.1e} from PyTorch's in float64; PyTorch's own in float32 differ by {own:.1e}"
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


def _float32_errors(
    network: nn.Module, exact: nn.Module, pixels: NDArray[np.uint8], preprocessing: Preprocessing, *, with_maps: bool
) -> tuple[float, float]:
    """How far off PyTorch is in float32, of logits and of maps; the most of several runs, weights rounded otherwise."""
    expected = _logits(exact, pixels, preprocessing)
    error, map_error = 0.0, 0.0
    for seed in range(ROUNDINGS + 1):
        rounded = _rounded_otherwise(network, seed) if seed else network
        error = max(error, _difference(_logits(rounded, pixels, preprocessing), expected))
        for picture in pixels[:, np.newaxis] if with_maps else ():
            row = normalise_exactly(picture, preprocessing)
            found = {layer: maps.numpy() for layer, maps in _maps(rounded, row.float()).items()}
            map_error = max(map_error, _map_difference(found, _maps(exact, row)))
    return error, map_error


def _rounded_otherwise(network: nn.Module, seed: int) -> nn.Module:
    """A copy of `network` whose weights are off by one rounding of float32 at most."""
    random = torch.Generator().manual_seed(seed)
    changed = copy.deepcopy(network)
    for weight in changed.state_dict().values():
        if weight.is_floating_point():
            weight.mul_(1 + (2 * torch.rand(weight.shape, generator=random) - 1) * 2**-23)
    return changed


def _logits(network: nn.Module, pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.floating]:
    """PyTorch's logits (N, num_classes), a few pictures at a time, in the precision of `network`."""
    precision = next(network.parameters()).dtype
    with torch.inference_mode():
        rows = (pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH))
        return torch.cat([network(normalise_exactly(some, preprocessing).to(precision)) for some in rows]).numpy()


def _maps(network: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    with torch.inference_mode():
        return attention_maps(network, inputs)


def _difference(found: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """Largest difference of any logit, as a share of the largest logit or of 1."""
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def _map_difference(found: Mapping[str, NDArray[np.floating]], expected: Mapping[str, Tensor]) -> float:
    """Largest difference of any share in any map."""
    if list(found) != list(expected):
        raise ExportError(f"parity: expected attention maps of {list(expected)}, found {list(found)}")
    if not all(np.isfinite(maps).all() for maps in found.values()):
        raise ExportError("parity: attention maps are not finite")
    return max(float(np.abs(maps - expected[layer].numpy()).max()) for layer, maps in found.items())


def _batches(count: int, size: int) -> Iterator[NDArray[np.int64]]:
    """The indices of all pictures in whole batches, the last filled up from the beginning."""
    yield from np.resize(np.arange(count), (-(-count // size), size))
