"""An export of a detector: suppression in the graph, detections compared; fp16 and int8 are judged by agreement."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aaserve.bundle.bundle import sha256_of
from aaserve.bundle.detections import Detections, detections_of_batch
from aaserve.bundle.manifest import DetectionParity, Output, Suppression
from aaserve.bundle.preprocessing import Preprocessing
from aaserve.bundle.references.probe import PROBE, probe_pixels
from aaserve.bundle.references.references import Reference, StoredDetections
from aaserve.bundle.tasks.detection import detection_outputs
from aaserve.export.graph.runtime import Graph
from aaserve.export.graph.suppression import append_suppression
from aaserve.export.judgement.detection_loss import DetectionJudgement, judge_detections
from aaserve.export.judgement.detection_parity import Detector, RawGraph, check_detection_parity
from aaserve.export.judgement.pictures import Picture
from aaserve.export.judgement.samples import Sample
from aaserve.export.tasks.task import Pixels, Report


@dataclass(frozen=True)
class Detection:
    """See `Task`. The graph of the network has the raw outputs of graph/suppression.py."""

    original: Detector
    preprocessing: Preprocessing

    name = "detection"
    answers = 2
    attention = ()

    @property
    def outputs(self) -> tuple[Output, ...]:
        return detection_outputs(self.original.selection.max_detections)

    @property
    def suppression(self) -> Suppression:
        selection = self.original.selection
        return Suppression(score_threshold=selection.score_threshold, iou_threshold=selection.iou_threshold)

    def finish(self, network: bytes) -> bytes:
        return append_suppression(network, self.original.anchors, self.preprocessing.crop, self.original.selection)

    def check_parity(self, network: bytes, pixels: Pixels, **how: Any) -> DetectionParity:
        raw = RawGraph(network, self.preprocessing)
        graph = Graph(self.finish(network), self.preprocessing)
        return check_detection_parity(self.original, raw, graph, pixels, **how)

    def judge(
        self, fp32: bytes, lowered: bytes, batches: Iterable[Pixels], samples: Sequence[Sample]
    ) -> DetectionJudgement:
        graphs = (Graph(self.finish(network), self.preprocessing) for network in (fp32, lowered))
        pictures = [sample.annotated for sample in samples if sample.annotated]  # all of them or none
        return judge_detections(
            *graphs,
            batches,
            pictures,
            preprocessing=self.preprocessing,
            num_classes=self.original.num_classes,
        )

    def references(self, network: bytes, pictures: Sequence[Picture], report: Report) -> tuple[Reference, ...]:
        graph = Graph(self.finish(network), self.preprocessing)
        probe = probe_pixels(self.preprocessing.crop)
        asked = [*pictures, Picture(PROBE, sha256_of(probe.tobytes()), probe)]
        found = [detections_of_batch(graph.values(picture.pixels[np.newaxis]))[0] for picture in asked]
        if not any(len(one.scores) for one in found[:-1]):
            report(
                f"warning: nothing with a score above {self.original.selection.score_threshold:g} in any of the "
                f"{len(pictures)} pictures: check mean and std, and that the checkpoint is a trained one"
            )
        return tuple(
            Reference(picture=picture.name, sha256=picture.sha256, detections=_stored(one))
            for picture, one in zip(asked, found, strict=True)
        )


def _stored(found: Detections) -> StoredDetections:
    return StoredDetections(
        boxes=tuple(map(tuple, found.boxes.astype(float).round(3).tolist())),
        scores=tuple(found.scores.astype(float).round(6).tolist()),
        classes=tuple(found.classes.tolist()),
    )
