"""Sections of a classification manifest: one output, logits, and the accuracy of the best class."""

from collections.abc import Sequence

from pydantic import Field

from aaserve.bundle.sections import Calibrated, Judged, Output, Quantised, Section, Share, Size


class Parity(Section):
    """The comparison of the graph with its original, PyTorch or an ONNX file, on real pictures at the export."""

    images: int = Field(ge=1)
    batch_sizes: tuple[Size, ...]
    max_difference: float = Field(ge=0, description="Of a logit, relative to the largest logit or 1.")
    tolerance: float = Field(gt=0, description="Largest max_difference allowed.")
    top_1_agreement: float = Field(ge=0, le=1)
    attention_difference: Share | None = Field(None, description="Largest of a weight in the attention maps.")
    attention_tolerance: Share | None = Field(None, description="Largest attention_difference allowed.")


class Accuracy(Section):
    """Accuracy on labelled pictures, and how it was measured."""

    dataset: str
    images: int = Field(ge=1)
    top_1: float = Field(ge=0, le=1)
    top_5: float = Field(ge=0, le=1)
    measured: str = Field(description="Command and conditions, in one sentence.")


class Lowered(Section):
    """The loss of a precision below fp32, compared with the fp32 graph of the same checkpoint, and the limit."""

    judged: Judged
    top_1_agreement: Share = Field(description="Share of these pictures with the same best class.")
    top_1_fp32: Share | None = Field(description="Accuracy of the fp32 graph, if the pictures have labels.")
    top_1: Share | None = Field(description="Accuracy of this graph, if the pictures have labels.")
    allowed_drop: float = Field(
        ge=0, description="Largest allowed loss, in points of accuracy, or of agreement without labels."
    )
    calibrated: Calibrated
    quantised: Quantised


def check_outputs(outputs: Sequence[Output], num_labels: int) -> None:
    """Check that there is one output, logits (number of classes,), and a label for each class.

    Raises:
        ValueError: one line; expected and found.
    """
    logits = [(output.dtype, *output.shape) for output in outputs]
    if len(logits) != 1 or logits[0][0] != "float32" or len(logits[0]) != 2:
        raise ValueError(f"expected one output, float32 (number of classes,), found {logits}")
    if num_labels != logits[0][1]:
        raise ValueError(f"expected {logits[0][1]} labels, one for each class, found {num_labels}")
