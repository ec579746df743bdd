"""A generated picture for checking any bundle: the same bytes on every machine, and not a photograph.

Its logits in references.json are those of the exported graph on the exporting CPU. Real pictures compare with PyTorch;
the probe compares machines.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from aaserve.bundle.manifest import Manifest

PROBE = "probe"  # its name in the references; there is no such file

# Largest allowed difference of a logit, relative to the largest logit or 1, or of a detection's score, by precision:
# another processor adds in another order, and below fp32 each sum is rounded more.
PROBE_TOLERANCES = {"fp32": 1e-3, "fp16": 3e-2, "bf16": 0.2, "int8": 0.2}


def probe_pixels(crop: tuple[int, int]) -> NDArray[np.uint8]:
    """Noise, uint8 (H, W, 3)."""
    height, width = crop
    noise = hashlib.shake_256(b"aaserve probe").digest(height * width * 3)
    return np.frombuffer(noise, np.uint8).reshape(height, width, 3)


def probe_tolerance(manifest: Manifest) -> float:
    """Largest allowed difference of a logit, or of a detection's score.

    In float32 it is at least the tolerance of the export: if float32 is coarse for a network, answers differ between
    machines as much as between runtimes.
    """
    tolerance = PROBE_TOLERANCES[manifest.precision]
    return max(tolerance, manifest.parity.tolerance) if manifest.precision == "fp32" else tolerance
