"""How a model computed in less than the precision of its file answers, compared with full precision on this machine.

both sessions --probe, reference pictures of the bundle--> Agreement | StartFailed: the precision is not for this model
"""

from dataclasses import dataclass

import numpy as np

from aaserve.bundle.bundle import Bundle
from aaserve.bundle.model_input import pixels_input
from aaserve.bundle.probe import PROBE_TOLERANCES, probe_pixels
from aaserve.bundle.reference_pictures import read_reference_pictures
from aaserve.service.engine.runtime.model_session import ModelSession
from aaserve.service.errors import StartFailed

# Share of the reference pictures whose best class may change. A network that bf16 suits changes it on about one picture
# in a hundred (benchmarks/results/2026-11-30-bf16.json), but bundles have as few as four; one that it does not suit
# changes most of them.
MAY_CHANGE = 0.25


@dataclass(frozen=True)
class Agreement:
    """Answers of the same graph in two precisions."""

    precision: str
    pictures: int  # the probe and the bundle's reference pictures
    same_best_class: int
    max_difference: float  # of any logit, as a share of the picture's largest logit or of 1


def compare(lower: ModelSession, exact: ModelSession, served: Bundle) -> Agreement:
    """Ask both sessions about the probe and the reference pictures that are in the bundle.

    Raises:
        StartFailed: the logits of the probe differ by more than is allowed for the precision, or the best class of too
            many reference pictures does.
        BundleError: a reference picture is not what the manifest says.
    """
    manifest, precision = served.manifest, lower.precision
    logits = manifest.outputs[0].name
    pictures = [probe_pixels(manifest.preprocessing.crop), *read_reference_pictures(served)]
    differences, same = [], []
    for pixels in pictures:
        row = pixels_input(pixels, manifest)[np.newaxis]
        found, expected = lower.run(row)[logits][0], exact.run(row)[logits][0]
        differences.append(float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max())))
        same.append(bool(found.argmax() == expected.argmax()))
    tolerance = PROBE_TOLERANCES[precision]
    if not differences[0] <= tolerance:
        raise StartFailed(
            f"{served.model_path}: expected the answer to the probe in {precision} within {tolerance:.0e} of fp32, "
            f"found {differences[0]:.1e} (cpu_precision)"
        )
    if (changed := same[1:].count(False)) > MAY_CHANGE * len(same[1:]):
        raise StartFailed(
            f"{served.model_path}: expected {precision} to change the best class of at most {MAY_CHANGE:.0%} of the "
            f"bundle's pictures, found {changed} of {len(same[1:])} (cpu_precision)"
        )
    return Agreement(precision, len(same), sum(same), max(differences))
