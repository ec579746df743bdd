"""What the manifest of a detection model says: four outputs, suppression inside the graph, and average precision."""

from collections.abc import Sequence

from pydantic import Field

from aaserve.bundle.sections import Calibrated, Judged, Output, Quantised, Section, Share, Size


class Suppression(Section):
    """How the graph chooses among the boxes that the network proposes."""

    score_threshold: Share = Field(description="The graph never answers detections with lower scores.")
    iou_threshold: Share = Field(description="Of two boxes of a class that overlap by more, the better one stays.")


class DetectionParity(Section):
    """How the detections of the graph compared with those of PyTorch, on real pictures when it was made."""

    images: int = Field(ge=1)
    batch_sizes: tuple[Size, ...]
    detections: int = Field(ge=0, description="Detections that were compared.")
    max_difference: float = Field(ge=0, description="Largest difference of a score.")
    tolerance: float = Field(gt=0, description="Largest max_difference allowed.")
    least_iou: Share = Field(description="Least intersection over union of two boxes that belong together.")
    iou_tolerance: Share = Field(description="Smallest least_iou allowed.")


class DetectionAccuracy(Section):
    """Average precision on annotated pictures as COCO defines it, and how it was measured."""

    dataset: str
    images: int = Field(ge=1)
    ap: Share = Field(description="Mean over classes and over IoU thresholds 0.50, 0.55, ... 0.95.")
    ap_50: Share = Field(description="At an IoU of 0.50.")
    ap_75: Share = Field(description="At an IoU of 0.75.")
    measured: str = Field(description="Command and circumstances, in a sentence.")


class DetectionLowered(Section):
    """What a precision below fp32 costs, against the fp32 graph of the same checkpoint, and what was allowed."""

    judged: Judged
    agreement: Share = Field(description="Share of the fp32 graph's detections that this graph finds too.")
    ap_fp32: Share | None = Field(description="Average precision of the fp32 graph, where there are annotations.")
    ap: Share | None = Field(description="Average precision of this graph, where there are annotations.")
    allowed_drop: float = Field(
        ge=0, description="Points of average precision, or of agreement without annotations, to lose at most."
    )
    calibrated: Calibrated
    quantised: Quantised


def detection_outputs(max_detections: int) -> tuple[Output, ...]:
    """The outputs of a graph that finds up to `max_detections` in a picture, without the batch axis.

    Boxes are left, top, right, bottom in pixels of the network's input. Rows beyond `count` are zeros.
    """
    return (
        Output(name="boxes", dtype="float32", shape=(max_detections, 4)),
        Output(name="scores", dtype="float32", shape=(max_detections,)),
        Output(name="classes", dtype="int64", shape=(max_detections,)),
        Output(name="count", dtype="int64", shape=()),
    )


def check_outputs(outputs: Sequence[Output], num_labels: int) -> None:
    """Check that there are the outputs of a detector, and that there are classes.

    Raises:
        ValueError: one line; expected and found.
    """
    rows = outputs[0].shape[0] if outputs and outputs[0].shape else 1
    if tuple(outputs) != detection_outputs(rows):
        raise ValueError(
            "expected the outputs boxes float32 (D, 4), scores float32 (D,), classes int64 (D,) and count int64 (), "
            f"found {', '.join(f'{one.name} {one.dtype} {one.shape}' for one in outputs) or 'none'}"
        )
    if not num_labels:
        raise ValueError("expected a label for each class, found none")
