"""How a model computed in less than the precision of its file answers, compared with full precision on this machine.

both sessions --probe, reference pictures of the bundle--> Agreement | StartFailed: the precision is not for this model
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aaserve.bundle.bundle import Bundle
from aaserve.bundle.detections import CERTAIN, SAME_BOX, detections_of
from aaserve.bundle.detections import difference as detection_difference
from aaserve.bundle.manifest import Manifest
from aaserve.bundle.model_input import pixels_input
from aaserve.bundle.references.pictures import read_reference_pictures
from aaserve.bundle.references.probe import PROBE_TOLERANCES, probe_pixels
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
    same_best_class: int  # pictures; of detection, those with the same objects
    max_difference: float  # of any logit, as a share of the picture's largest logit or of 1; of detection, of any score


def compare(lower: ModelSession, exact: ModelSession, served: Bundle) -> Agreement:
    """Ask both sessions about the probe and the reference pictures that are in the bundle.

    Raises:
        StartFailed: the answers to the probe differ by more than is allowed for the precision, or the best class (of
            detection: the objects) of too many reference pictures does.
        BundleError: a reference picture is not what the manifest says.
    """
    manifest, precision = served.manifest, lower.precision
    pictures = [probe_pixels(manifest.preprocessing.crop), *read_reference_pictures(served)]
    differences, same = [], []
    for pixels in pictures:
        row = pixels_input(pixels, manifest)[np.newaxis]
        found, expected = ({name: values[0] for name, values in each.run(row).items()} for each in (lower, exact))
        worst, is_same = _apart(found, expected, manifest)
        differences.append(worst)
        same.append(is_same)
    tolerance = PROBE_TOLERANCES[precision]
    what = "objects" if manifest.task == "detection" else "best class"
    if not differences[0] <= tolerance:
        raise StartFailed(
            f"{served.model_path}: expected the answer to the probe in {precision} within {tolerance:.0e} of fp32, "
            f"found {differences[0]:.1e} (cpu_precision)"
        )
    if (changed := same[1:].count(False)) > MAY_CHANGE * len(same[1:]):
        raise StartFailed(
            f"{served.model_path}: expected {precision} to change the {what} of at most {MAY_CHANGE:.0%} of the "
            f"bundle's pictures, found {changed} of {len(same[1:])} (cpu_precision)"
        )
    return Agreement(precision, len(same), sum(same), max(differences))


def _apart(
    found: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], manifest: Manifest
) -> tuple[float, bool]:
    """How far two answers to one picture are apart, and whether they say the same.

    Detections say the same if each that is CERTAIN in either answer has a counterpart of its class in the other.
    """
    if manifest.task == "detection":
        difference = detection_difference(
            detections_of(found), detections_of(expected), score_threshold=CERTAIN, least_iou=SAME_BOX
        )
        return difference.score, difference.matched == difference.compared
    logits, exact = (answer[manifest.outputs[0].name] for answer in (found, expected))
    worst = float(np.abs(logits - exact).max() / max(1.0, np.abs(exact).max()))
    return worst, bool(logits.argmax() == exact.argmax())
