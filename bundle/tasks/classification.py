"""What the manifest of a classification model says: one output, logits, and how well its best class is known."""

from collections.abc import Sequence

from pydantic import Field

from aaserve.bundle.sections import Output, Section, Share, Size


class Parity(Section):
    """How the graph compared with its original, PyTorch or an ONNX file, on real pictures when it was made."""

    images: int = Field(ge=1)
    batch_sizes: tuple[Size, ...]
    max_difference: float = Field(ge=0, description="Of any logit, as a share of the largest logit or of 1.")
    tolerance: float = Field(gt=0, description="Largest max_difference allowed.")
    top_1_agreement: float = Field(ge=0, le=1)
    attention_difference: Share | None = Field(None, description="Largest of any share of the attention maps.")
    attention_tolerance: Share | None = Field(None, description="Largest attention_difference allowed.")


class Accuracy(Section):
    """Accuracy on labelled pictures, and how it was measured."""

    dataset: str
    images: int = Field(ge=1)
    top_1: float = Field(ge=0, le=1)
    top_5: float = Field(ge=0, le=1)
    measured: str = Field(description="Command and circumstances, in a sentence.")


class Lowered(Section):
    """What a precision below fp32 costs, against the fp32 graph of the same checkpoint, and what was allowed."""

    judged: int = Field(ge=1, description="Pictures that both graphs answered; none of them served to calibrate.")
    top_1_agreement: Share = Field(description="Share of them with the same best class.")
    top_1_fp32: Share | None = Field(description="Accuracy of the fp32 graph, where the pictures are labelled.")
    top_1: Share | None = Field(description="Accuracy of this graph, where the pictures are labelled.")
    allowed_drop: float = Field(
        ge=0, description="Points of accuracy, or of agreement without labels, to lose at most."
    )
    calibrated: int | None = Field(ge=1, description="Pictures that gave the ranges of activations; int8 only.")
    quantised: dict[str, int] | None = Field(description="Operators that compute in 8 bits, by kind; int8 only.")


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
