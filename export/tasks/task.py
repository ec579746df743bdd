"""What differs between an export of a classifier and one of a detector."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aaserve.bundle.manifest import AttentionMap, DetectionParity, Output, Parity, Precision, Suppression
from aaserve.bundle.references.references import Reference
from aaserve.export.judgement.loss import Judgement
from aaserve.export.judgement.pictures import Picture
from aaserve.export.judgement.samples import Sample

Report = Callable[[str], None]
Pixels = NDArray[np.uint8]  # (N, H, W, 3)


class Task(Protocol):
    """The task of one network.

    Attributes:
        name: in the manifest.
        outputs: of the finished graph, without attention maps.
        answers: how many outputs of the network have to be float32.
        attention: maps that are outputs too.
        suppression: of detection.
    """

    name: str
    outputs: tuple[Output, ...]
    answers: int
    attention: tuple[AttentionMap, ...]
    suppression: Suppression | None

    def finish(self, network: bytes) -> bytes:
        """The graph that is served, of the network's own graph, in whatever precision."""

    def check_parity(
        self, network: bytes, pixels: Pixels, *, batch_sizes: Sequence[int], precision: Precision, report: Report
    ) -> Parity | DetectionParity:
        """Compare the finished graph with the original on pictures, which are repeated where a batch is larger.

        Raises:
            ExportError: they differ.
        """

    def judge(self, fp32: bytes, lowered: bytes, batches: Iterable[Pixels], samples: Sequence[Sample]) -> Judgement:
        """What the network loses; `samples` are the pictures of `batches`, or none if nothing is known of these."""

    def references(self, network: bytes, pictures: Sequence[Picture], report: Report) -> tuple[Reference, ...]:
        """The answers to the pictures and to the probe, see `Reference`; `report` is told what is odd."""
