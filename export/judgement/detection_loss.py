"""How much does a detector lose in fp16 or int8? Both it and the fp32 graph answer the same pictures."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aaserve.bundle.coco.average_precision import average_precision, in_picture
from aaserve.bundle.coco.instances import Picture
from aaserve.bundle.detections import CERTAIN, SAME_BOX, Detections, detections_of_batch, difference
from aaserve.bundle.manifest import DetectionLowered
from aaserve.bundle.preprocessing import Preprocessing
from aaserve.export.errors import ExportError
from aaserve.export.graph.runtime import Graph


@dataclass(frozen=True)
class DetectionJudgement:
    """Share of the detections of either graph that the other one has too, of a score of CERTAIN or more.

    `certain` is their number. The average precisions are None where the pictures have no annotations.
    """

    judged: int
    agreement: float
    certain: int
    ap_fp32: float | None = None
    ap: float | None = None

    @property
    def lost(self) -> float:
        """Percentage points: of average precision if the pictures are annotated, else of agreement with fp32."""
        if self.ap is None or self.ap_fp32 is None:
            return 100 * (1 - self.agreement)
        return 100 * (self.ap_fp32 - self.ap)

    def __str__(self) -> str:
        if self.certain:
            text = f"{self.agreement:.2%} of the certain detections agree with fp32 on {self.judged} pictures"
        else:
            text = f"no detection has a score of {CERTAIN} or more on {self.judged} pictures"
        if self.ap is None or self.ap_fp32 is None:
            return f"{text}, which have no annotations"
        return f"{text}; AP {self.ap:.2%}, fp32 {self.ap_fp32:.2%}, {self.lost:+.2f} points lost"

    def section(self, **how: Any) -> DetectionLowered:
        return DetectionLowered(judged=self.judged, agreement=self.agreement, ap_fp32=self.ap_fp32, ap=self.ap, **how)


def judge_detections(
    fp32: Graph,
    lowered: Graph,
    batches: Iterable[NDArray[np.uint8]],
    pictures: Sequence[Picture] = (),
    *,
    preprocessing: Preprocessing,
    num_classes: int,
) -> DetectionJudgement:
    """Compare the answers to the pixels of `batches` (B, H, W, 3), which are those of `pictures` if annotated.

    Raises:
        ExportError: nothing shows what is lost, as fp32 finds nothing in these pictures. ValueError: no box in them.
    """
    expected: list[Detections] = []
    found: list[Detections] = []
    for pixels in batches:
        expected += detections_of_batch(fp32.values(pixels))
        found += detections_of_batch(lowered.values(pixels))
    apart = [
        difference(*pair, score_threshold=CERTAIN, least_iou=SAME_BOX) for pair in zip(found, expected, strict=True)
    ]
    compared, matched = (sum(getattr(one, name) for one in apart) for name in ("compared", "matched"))
    if not compared and not pictures:
        raise ExportError(
            f"precision: expected detections with a score of {CERTAIN} or more in the {len(found)} pictures that "
            "compare it with fp32, found none; give --calibration other pictures, or annotated ones"
        )
    precisions = [
        average_precision(
            pictures,
            {
                number: in_picture(one, picture, preprocessing)
                for number, (one, picture) in enumerate(zip(answers, pictures, strict=True))
            },
            num_classes,
        ).ap
        for answers in (expected, found)
        if pictures
    ]
    if precisions and not precisions[0]:
        raise ExportError(
            f"precision: expected fp32 to find some of the boxes in the {len(found)} pictures that compare it with "
            "fp32, found an AP of 0; give --calibration pictures that the network knows"
        )
    return DetectionJudgement(len(found), matched / compared if compared else 1.0, compared, *precisions)
