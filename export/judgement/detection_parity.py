"""Does a detector's graph find what PyTorch finds? ONNX Runtime against it, on real pictures.

    pixels --PyTorch in float64--> raw outputs --detect--> expected --same detections?--> DetectionParity
    pixels --graph---------------> detections --------------^   `--no--> only a tie?--> noted, or refused

Suppression decides by comparing numbers: which of two scores is higher, whether an overlap is above the threshold.
Where they are equal up to rounding, two correct runtimes keep different boxes. Such a picture passes if the raw outputs
of the graph are PyTorch's within the tolerance of classifiers, and its detections are those that PyTorch's own
suppression makes of these raw outputs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aaserve.bundle.detections import Detections, detections_of, difference
from aaserve.bundle.manifest import DetectionParity, Precision
from aaserve.bundle.preprocessing import Preprocessing
from aaserve.export.errors import ExportError
from aaserve.export.graph.runtime import Graph
from aaserve.export.judgement.originals import PyTorch
from aaserve.export.judgement.parity import TOLERANCES, asked, check_parity, whole_batches
from aaserve.export.request import Selection
from aaserve.models.networks.retinanet.detections import detect
from aaserve.models.networks.retinanet.network import RetinaNet

# Of a score, and of the intersection over union of two boxes that belong together. Below fp32, average precision or
# agreement decides (export/judgement/detection_loss.py), and this only tells a sound graph from a broken one.
SCORE_TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 3e-2, "int8": 0.5}
IOU_TOLERANCES: dict[Precision, float] = {"fp32": 0.99, "fp16": 0.9, "int8": 0.5}
ROUNDING = 1e-6  # of a score: the graph orders by logits


class Detector:
    """A RetinaNet in PyTorch, asked for detections as a graph with `selection` answers them.

    Attributes:
        anchors: (A, 4) left, top, right, bottom in pixels of the input.
        num_classes: K.
    """

    def __init__(
        self,
        network: RetinaNet,
        preprocessing: Preprocessing,
        selection: Selection,
        report: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.raw = PyTorch(Raw(network), preprocessing, report)
        self.selection = selection
        self.anchors = network.anchors.numpy()
        self.num_classes = network.num_classes
        self._network = network

    def detections(self, pixels: NDArray[np.uint8]) -> list[Detections]:
        """Of each of the pictures (N, H, W, 3), in float64."""
        return self.detections_of_raw(self.raw.logits(pixels))

    def detections_of_raw(self, raw: NDArray[np.floating]) -> list[Detections]:
        """Of the raw outputs (N, A * (K + 4)) of a graph or of PyTorch."""
        network = self._network
        answers = torch.from_numpy(raw).unflatten(1, (len(network.anchors), -1))  # (N, A, K + 4)
        boxes, scores, classes, count = detect(
            answers[..., :-4],
            answers[..., -4:],
            network.anchors,
            image_size=network.image_size,
            score_threshold=self.selection.score_threshold,
            iou_threshold=self.selection.iou_threshold,
            max_detections=self.selection.max_detections,
        )
        rows = zip(boxes.numpy(), scores.numpy(), classes.numpy(), count.tolist(), strict=True)
        return [Detections(*(values[:found] for values in row)) for *row, found in rows]


class RawGraph(Graph):
    """A detector's network in ONNX; call it with pixels (B, H, W, 3) to get raw outputs (B, A * (K + 4))."""

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits, deltas = self.values(pixels).values()
        return np.concatenate([logits, deltas], axis=2).reshape(len(pixels), -1)


def check_detection_parity(
    original: Detector,
    network: RawGraph,
    graph: Graph,
    pixels: NDArray[np.uint8],
    *,
    batch_sizes: Sequence[int],
    precision: Precision = "fp32",
    report: Callable[[str], None] = lambda text: None,
) -> DetectionParity:
    """Compare both on each batch size; `pixels` (N, H, W, 3) are repeated where a batch is larger.

    Args:
        network: the graph without suppression.
        graph: the whole graph.
        report: is told of ties, and where float32 is so coarse that the tolerance had to grow.

    Raises:
        ExportError: raw outputs or detections differ by more than the tolerance, or are no sound answers.
    """
    raw = check_parity(original.raw, network, pixels, batch_sizes=[1], precision=precision, report=report)
    # Where float32 is coarse for the network, it is for the scores.
    tolerance = SCORE_TOLERANCES[precision]
    tolerance = max(tolerance, raw.tolerance) if raw.tolerance > TOLERANCES[precision] else tolerance
    iou_tolerance, threshold = IOU_TOLERANCES[precision], original.selection.score_threshold + tolerance
    expected = original.detections(pixels)
    worst, least_iou, compared, ties = 0.0, 1.0, 0, set()
    for size in batch_sizes:
        for index in whole_batches(len(pixels), size):
            answers = asked(graph.values, pixels[index])
            for row, picture in enumerate(index.tolist()):
                found = _sound({name: values[row] for name, values in answers.items()}, original, size)
                apart = difference(found, expected[picture], score_threshold=threshold)
                if not (apart.score <= tolerance and apart.iou >= iou_tolerance):
                    ties.add(picture)
                    [own] = original.detections_of_raw(network(pixels[picture : picture + 1]))
                    apart = difference(found, own, score_threshold=threshold)
                if not (apart.score <= tolerance and apart.iou >= iou_tolerance):
                    raise ExportError(
                        f"parity at batch {size}: of {apart.compared} detections {apart.matched} have a counterpart in "
                        f"PyTorch's, scores within {apart.score:.1e}, boxes with an IoU of {apart.iou:.3f} or more "
                        f"(tolerances {tolerance:.0e} and {iou_tolerance}), so the graph is wrong"
                    )
                worst, least_iou = max(worst, apart.score), min(least_iou, apart.iou)
                compared += apart.compared // 2
    if ties:
        report(
            f"in {len(ties)} of {len(pixels)} pictures rounding decides which of two boxes stays; these are compared "
            "with PyTorch's suppression of the graph's own boxes"
        )
    return DetectionParity(
        images=len(pixels),
        batch_sizes=tuple(batch_sizes),
        detections=compared,
        max_difference=worst,
        tolerance=tolerance,
        least_iou=least_iou,
        iou_tolerance=iou_tolerance,
    )


def _sound(answer: Mapping[str, NDArray[Any]], original: Detector, size: int) -> Detections:
    """The detections of one picture.

    Raises:
        ExportError: not what the manifest promises of them.
    """
    found = detections_of(answer)
    beyond = [answer[name][len(found.scores) :] for name in ("boxes", "scores", "classes")]
    if (
        any(values.any() for values in beyond)
        or not np.isfinite(found.boxes).all()
        or not (found.scores > original.selection.score_threshold - ROUNDING).all()
        or (np.diff(found.scores) > ROUNDING).any()
    ):
        raise ExportError(
            f"parity at batch {size}: expected finite boxes, the best score first, and zeros behind them, found others"
        )
    return found


class Raw(nn.Module):
    """Both outputs of a detector as one: (B, 3, H, W) to (B, A * (K + 4))."""

    def __init__(self, network: RetinaNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits, deltas = self.network(x)
        return torch.cat([logits, deltas], dim=2).flatten(1)
