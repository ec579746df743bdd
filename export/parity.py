"""Does the graph answer what the network answers? PyTorch against ONNX Runtime, on real pictures."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bundle.manifest import AttentionMap, Parity, Precision
from bundle.preprocessing import Preprocessing, normalise
from export.errors import ExportError
from export.graph import Graph
from models.attention_maps import attention_maps

# Relative to the largest logit. float32 sums in another order differ by some 1e-6. Below fp32 the loss of top-1 decides
# (export/judgement.py) and this only tells a sound graph from a broken one: of 1,000 CIFAR pictures the worst was off
# by 0.004 in fp16, of 9,500 by 0.20 in int8 (docs/decisions/0008-precision.md).
TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.5}
# Of a share of an attention map, which is 0..1; of 300 CIFAR pictures the worst was off by 0.002 in fp16, 0.13 in int8.
MAP_TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "int8": 0.3}
MAPS_BATCH = 2


def check_parity(
    network: nn.Module,
    model: bytes,
    pixels: NDArray[np.uint8],
    preprocessing: Preprocessing,
    *,
    batch_sizes: Sequence[int],
    precision: Precision = "fp32",
    attention: Sequence[AttentionMap] = (),
) -> Parity:
    """Compare both on each batch size; `pixels` (N, H, W, 3) are repeated where a batch is larger.

    PyTorch gets what `bundle.preprocessing.normalise` makes of the pixels, whatever input the graph takes. Attention
    maps are compared whole, in batches of up to MAPS_BATCH: PyTorch's of a large one would fill the memory.

    Raises:
        ExportError: a logit or a share of a map differs by more than the tolerance, a value is not finite, or in fp32 a
            top-1 differs.
    """
    graph = Graph(model, preprocessing)
    tolerance, map_tolerance = TOLERANCES[precision], MAP_TOLERANCES[precision]
    worst, worst_map, agreeing, compared = 0.0, 0.0, 0, 0
    for size in batch_sizes:
        for batch in _batches(pixels, size):
            inputs = torch.from_numpy(normalise(batch, preprocessing))
            with torch.inference_mode():
                expected = network(inputs).numpy()  # (size, num_classes)
                expected_maps = attention_maps(network, inputs) if attention and size <= MAPS_BATCH else {}
            found = graph(batch)
            if found.shape != expected.shape:
                raise ExportError(f"parity at batch {size}: expected logits {expected.shape}, found {found.shape}")
            if not np.isfinite(found).all():
                raise ExportError(f"parity at batch {size}: logits are not finite")
            worst = max(worst, float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max())))
            if expected_maps:
                worst_map = max(worst_map, _map_difference(graph.maps(batch, attention), expected_maps))
            agreeing += int((found.argmax(1) == expected.argmax(1)).sum())
            compared += size
    if worst > tolerance or (precision == "fp32" and agreeing < compared):
        raise ExportError(
            f"parity: logits differ by {worst:.2e} (tolerance {tolerance:.0e}), "
            f"top-1 agrees on {agreeing} of {compared} pictures"
        )
    if worst_map > map_tolerance:
        raise ExportError(f"parity: attention maps differ by {worst_map:.2e} (tolerance {map_tolerance:.0e})")
    return Parity(
        images=len(pixels),
        batch_sizes=tuple(batch_sizes),
        max_difference=worst,
        tolerance=tolerance,
        top_1_agreement=agreeing / compared,
        attention_difference=worst_map if attention else None,
        attention_tolerance=map_tolerance if attention else None,
    )


def _map_difference(found: Mapping[str, NDArray[np.floating]], expected: Mapping[str, Tensor]) -> float:
    """Largest difference of any share in any map."""
    if list(found) != list(expected):
        raise ExportError(f"parity: expected attention maps of {list(expected)}, found {list(found)}")
    if not all(np.isfinite(maps).all() for maps in found.values()):
        raise ExportError("parity: attention maps are not finite")
    return max(float(np.abs(maps - expected[layer].numpy()).max()) for layer, maps in found.items())


def _batches(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """All pictures in whole batches (count, size, H, W, 3), the last filled up from the beginning."""
    count = -(-len(pixels) // size)
    return np.resize(pixels, (count, size, *pixels.shape[1:]))
