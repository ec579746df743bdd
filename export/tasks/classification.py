"""An export of a classifier: logits, compared as numbers; fp16 and int8 are judged by the best class."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aaserve.bundle.manifest import AttentionMap, Output, Parity, Precision
from aaserve.bundle.preprocessing import Preprocessing
from aaserve.bundle.references import Reference
from aaserve.export.graph.convert import OUTPUT_NAME
from aaserve.export.graph.runtime import Graph
from aaserve.export.judgement.loss import TopOneJudgement, judge
from aaserve.export.judgement.originals import Original
from aaserve.export.judgement.parity import check_parity
from aaserve.export.judgement.pictures import Picture
from aaserve.export.judgement.references import picture_references, probe_reference, spread
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

    def check_parity(
        self, network: bytes, pixels: Pixels, *, batch_sizes: Sequence[int], precision: Precision, report: Report
    ) -> Parity:
        return check_parity(
            self.original,
            Graph(network, self.preprocessing),
            pixels,
            batch_sizes=batch_sizes,
            precision=precision,
            attention=self.attention,
            report=report,
        )

    def judge(
        self, fp32: bytes, lowered: bytes, batches: Iterable[Pixels], samples: Sequence[Sample]
    ) -> TopOneJudgement:
        graphs = (Graph(model, self.preprocessing) for model in (fp32, lowered))
        return judge(*graphs, batches, [sample.class_index for sample in samples] or [None])

    def references(self, network: bytes, pictures: Sequence[Picture], report: Report) -> tuple[Reference, ...]:
        graph = Graph(network, self.preprocessing)
        references = (
            *picture_references(self.original, pictures, self.attention),
            probe_reference(graph, self.preprocessing, self.attention),
        )
        if (found := spread(references)) < ALIKE:
            report(
                f"warning: different pictures get nearly the same logits, {found:.1e} apart as a share of the largest: "
                "check mean and std, and that the checkpoint is a trained one"
            )
        return references
