"""A generated picture for checking any bundle: the same bytes on every machine, and no photograph.

Its logits in references.json are those of the exported graph on the CPU where it was made. PyTorch is compared on real
pictures; this compares machines.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from aaserve.bundle.manifest import Manifest

PROBE = "probe"  # its name among the references; no file is called so

# Largest difference of a logit, as a share of the largest logit or of 1, or of a detection's score, by the graph's
# precision: another processor adds up in another order, and below fp32 each sum is rounded more.
PROBE_TOLERANCES = {"fp32": 1e-3, "fp16": 3e-2, "bf16": 0.2, "int8": 0.2}


def probe_pixels(crop: tuple[int, int]) -> NDArray[np.uint8]:
    """Noise, uint8 (H, W, 3)."""
    height, width = crop
    noise = hashlib.shake_256(b"aaserve probe").digest(height * width * 3)
    return np.frombuffer(noise, np.uint8).reshape(height, width, 3)


def probe_tolerance(manifest: Manifest) -> float:
    """Largest difference of a logit, or of a score of a detection, that is allowed here.

    In float32 it is at least what the export allowed: a network for which float32 is coarse differs as much between
    machines as between runtimes.
    """
    tolerance = PROBE_TOLERANCES[manifest.precision]
    return max(tolerance, manifest.parity.tolerance) if manifest.precision == "fp32" else tolerance
