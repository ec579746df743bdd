"""Does the graph answer what the network answers? PyTorch against ONNX Runtime, on real pictures."""

from collections.abc import Sequence

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from bundle.manifest import Parity
from bundle.preprocessing import Preprocessing, normalise
from export.convert import INPUT_NAME, OUTPUT_NAME
from export.errors import ExportError

TOLERANCE = 1e-4  # relative to the largest logit; float32 sums in another order differ by some 1e-6


def check_parity(
    network: nn.Module,
    model: bytes,
    pixels: NDArray[np.uint8],
    preprocessing: Preprocessing,
    *,
    batch_sizes: Sequence[int],
) -> Parity:
    """Compare both on each batch size; `pixels` (N, H, W, 3) are repeated where a batch is larger.

    PyTorch gets what `bundle.preprocessing.normalise` makes of the pixels, whatever input the graph takes.

    Raises:
        ExportError: a logit differs by more than the tolerance, or a top-1 differs, or a value is not finite.
    """
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    takes_pixels = session.get_inputs()[0].type == "tensor(uint8)"
    worst, agreeing, compared = 0.0, 0, 0
    for size in batch_sizes:
        for batch in _batches(pixels, size):
            normalised = normalise(batch, preprocessing)  # (size, 3, H, W)
            with torch.inference_mode():
                expected = network(torch.from_numpy(normalised)).numpy()  # (size, num_classes)
            found = session.run([OUTPUT_NAME], {INPUT_NAME: batch if takes_pixels else normalised})[0]
            if found.shape != expected.shape:
                raise ExportError(f"parity at batch {size}: expected logits {expected.shape}, found {found.shape}")
            if not np.isfinite(found).all():
                raise ExportError(f"parity at batch {size}: logits are not finite")
            worst = max(worst, float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max())))
            agreeing += int((found.argmax(1) == expected.argmax(1)).sum())
            compared += size
    if worst > TOLERANCE or agreeing < compared:
        raise ExportError(
            f"parity: logits differ by {worst:.2e} (tolerance {TOLERANCE:.0e}), "
            f"top-1 agrees on {agreeing} of {compared} pictures"
        )
    return Parity(
        images=len(pixels),
        batch_sizes=tuple(batch_sizes),
        max_difference=worst,
        tolerance=TOLERANCE,
        top_1_agreement=agreeing / compared,
    )


def _batches(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """All pictures in whole batches (count, size, H, W, 3), the last filled up from the beginning."""
    count = -(-len(pixels) // size)
    return np.resize(pixels, (count, size, *pixels.shape[1:]))
