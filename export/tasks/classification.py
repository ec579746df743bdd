"""An export of a classifier: logits, compared as numbers; fp16 and int8 are judged by the best class."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aaserve.bundle.bundle import sha256_of
from aaserve.bundle.manifest import AttentionMap, Output, Parity
from aaserve.bundle.preprocessing import Preprocessing
from aaserve.bundle.references.probe import PROBE, probe_pixels
from aaserve.bundle.references.references import Reference, gaze
from aaserve.export.graph.convert import OUTPUT_NAME
from aaserve.export.graph.runtime import Graph
from aaserve.export.judgement.loss import TopOneJudgement, judge
from aaserve.export.judgement.originals import Original
from aaserve.export.judgement.parity import check_parity
from aaserve.export.judgement.pictures import Picture
from aaserve.export.judgement.samples import Sample
from aaserve.export.tasks.task import Pixels, Report

# Smallest spread of the references without a warning. Untrained networks have 0.1 and more, a network that gets RGB in
# 0..1 with the mean and std of 0..255 has 0.0015.
ALIKE = 0.01


@dataclass(frozen=True)
class Classification:
    """See `Task`."""

    original: Original
    preprocessing: Preprocessing
    classes: int
    attention: tuple[AttentionMap, ...] = ()

    name = "classification"
    answers = 1
    suppression = None

    @property
    def outputs(self) -> tuple[Output, ...]:
        return (Output(name=OUTPUT_NAME, dtype="float32", shape=(self.classes,)),)

    def finish(self, network: bytes) -> bytes:
        return network

    def check_parity(self, network: bytes, pixels: Pixels, **how: Any) -> Parity:
        graph = Graph(network, self.preprocessing)
        return check_parity(self.original, graph, pixels, attention=self.attention, **how)

    def judge(
        self, fp32: bytes, lowered: bytes, batches: Iterable[Pixels], samples: Sequence[Sample]
    ) -> TopOneJudgement:
        graphs = (Graph(model, self.preprocessing) for model in (fp32, lowered))
        return judge(*graphs, batches, [sample.class_index for sample in samples] or [None])

    def references(self, network: bytes, pictures: Sequence[Picture], report: Report) -> tuple[Reference, ...]:
        graph = Graph(network, self.preprocessing)
        references = []
        for picture in pictures:
            row = picture.pixels[np.newaxis]
            maps = self.original.maps(row) if self.attention else {}
            references.append(self._reference(picture, self.original.logits(row), maps))
        probe = probe_pixels(self.preprocessing.crop)
        row = probe[np.newaxis]
        picture = Picture(PROBE, sha256_of(probe.tobytes()), probe)
        references.append(self._reference(picture, graph(row), graph.maps(row, self.attention)))
        logits = np.array([reference.logits for reference in references])  # (N, num_classes)
        if (spread := np.ptp(logits, axis=0).max() / max(1.0, np.abs(logits).max())) < ALIKE:
            report(
                f"warning: different pictures get nearly the same logits, {spread:.1e} apart as a share of the "
                "largest: check mean and std, and that the checkpoint is a trained one"
            )
        return tuple(references)

    def _reference(
        self, picture: Picture, logits: NDArray[np.floating], maps: Mapping[str, NDArray[np.floating]]
    ) -> Reference:
        """The answer to one picture: logits (1, num_classes), and maps (1, heads, queries, keys) by layer."""
        gazes = {one.layer: gaze(maps[one.layer][0], one.grid).round(6).tolist() for one in self.attention}
        return Reference(
            picture=picture.name,
            sha256=picture.sha256,
            logits=tuple(round(logit, 6) for logit in logits[0].tolist()),
            attention=gazes,
        )
