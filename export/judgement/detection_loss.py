"""How much does a detector lose in fp16 or int8? Both it and the fp32 graph answer the same pictures."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aaserve.bundle.detections import Detections, detections_of, difference
from aaserve.bundle.manifest import DetectionLowered
from aaserve.export.graph.runtime import Graph

CERTAIN = 0.5  # least score of a detection that counts
SAME_BOX = 0.5  # least intersection over union, as for PASCAL VOC


@dataclass(frozen=True)
class DetectionJudgement:
    """Share of the detections of either graph that the other one has too, of a score of CERTAIN or more."""

    judged: int
    agreement: float

    @property
    def lost(self) -> float:
        """Percentage points of agreement."""
        return 100 * (1 - self.agreement)

    def __str__(self) -> str:
        return f"{self.agreement:.2%} of the certain detections agree with fp32 on {self.judged} pictures"

    def section(
        self, *, allowed_drop: float, calibrated: int | None, quantised: dict[str, int] | None
    ) -> DetectionLowered:
        return DetectionLowered(
            judged=self.judged,
            agreement=self.agreement,
            ap_fp32=None,
            ap=None,
            allowed_drop=allowed_drop,
            calibrated=calibrated,
            quantised=quantised,
        )


def judge_detections(fp32: Graph, lowered: Graph, batches: Iterable[NDArray[np.uint8]]) -> DetectionJudgement:
    """Compare the answers to the pictures of `batches` (B, H, W, 3)."""
    judged = compared = matched = 0
    for pixels in batches:
        for expected, found in zip(*(_answers(graph, pixels) for graph in (fp32, lowered)), strict=True):
            apart = difference(found, expected, score_threshold=CERTAIN, least_iou=SAME_BOX)
            compared += apart.compared
            matched += apart.matched
        judged += len(pixels)
    return DetectionJudgement(judged, matched / compared if compared else 1.0)


def _answers(graph: Graph, pixels: NDArray[np.uint8]) -> list[Detections]:
    outputs = graph.values(pixels)
    return [detections_of({name: values[row] for name, values in outputs.items()}) for row in range(len(pixels))]
