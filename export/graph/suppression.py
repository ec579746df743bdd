"""Append to a detector's graph what makes detections of its raw outputs, batch and all.

    class_logits (N, A, K) --best pairs of anchor and class--> scores, classes, ranks (N, P) --+
    box_deltas   (N, A, 4) --decode, clip--> boxes (N, P, 4), apart by class ------------------+--NonMaxSuppression-->
                             places --> ranks kept, others 0 (N, P) --TopK--> boxes, scores, classes, count

The operator is given the ranks of the pairs for scores: float32 rounds the scores of unequal logits to the same number.

The same steps as `models.networks.retinanet.detections.detect`, in standard operators
(docs/decisions/0042-detectors.md).
"""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from aaserve.bundle.tasks.detection import detection_outputs
from aaserve.export.errors import ExportError
from aaserve.export.graph.check import checked_bytes
from aaserve.export.request import Selection
from aaserve.models.networks.retinanet.boxes import LARGEST_LOG_RATIO
from aaserve.models.networks.retinanet.detections import CANDIDATES

RAW_OUTPUTS = ("class_logits", "box_deltas")

# Letters: N batch, C anchors and P pairs of anchor and class that take part, S detections of the batch, D of a picture.
_STEPS = """
suppression (float[N, A, K] class_logits, float[N, A, 4] box_deltas)
    => (float[N, D, 4] boxes, float[N, D] scores, int64[N, D] classes, int64[N] count)
{
    best_logits = ReduceMax <keepdims = 0> (class_logits, s.axis_2)
    best_of_anchors, best_anchors = TopK <axis = 1> (best_logits, s.num_anchors)
    best_rows = Unsqueeze (best_anchors, s.axis_2)
    anchor_logits = GatherND <batch_dims = 1> (class_logits, best_rows)
    all_pairs = Reshape (anchor_logits, s.pairs_shape)
    pair_logits, pairs = TopK <axis = 1> (all_pairs, s.num_pairs)
    pair_scores = Sigmoid (pair_logits)
    pair_classes = Mod (pairs, s.num_classes)
    pair_rows = Div (pairs, s.num_classes)
    pair_anchors = GatherElements <axis = 1> (best_anchors, pair_rows)

    anchor_rows = Unsqueeze (pair_anchors, s.axis_2)
    deltas = GatherND <batch_dims = 1> (box_deltas, anchor_rows)
    shifts, log_ratios = Split <axis = 2, num_outputs = 2> (deltas)
    centres = Gather <axis = 0> (s.anchor_centres, pair_anchors)
    sizes = Gather <axis = 0> (s.anchor_sizes, pair_anchors)
    shifted = Mul (shifts, sizes)
    box_centres = Add (centres, shifted)
    bounded = Min (log_ratios, s.largest_log_ratio)
    ratios = Exp (bounded)
    box_sizes = Mul (sizes, ratios)
    halves = Div (box_sizes, s.two)
    upper_left = Sub (box_centres, halves)
    lower_right = Add (box_centres, halves)
    corners = Concat <axis = 2> (upper_left, lower_right)
    not_before = Max (corners, s.zero)
    pair_boxes = Min (not_before, s.borders)

    is_likely = Greater (pair_scores, s.score_threshold)
    likely = Cast <to = 1> (is_likely)
    pair_ranks = Mul (s.ranks, likely)
    class_numbers = Cast <to = 1> (pair_classes)
    offsets = Mul (class_numbers, s.apart)
    offset_column = Unsqueeze (offsets, s.axis_2)
    boxes_apart = Add (pair_boxes, offset_column)
    ranks_row = Unsqueeze (pair_ranks, s.axis_1)
    selected = NonMaxSuppression (boxes_apart, ranks_row, s.num_detections, s.iou_threshold, s.zero_rank)
    places = Gather <axis = 1> (selected, s.picture_and_pair)
    selected_ranks = GatherND (pair_ranks, places)
    zeros = Sub (pair_ranks, pair_ranks)
    kept_ranks = ScatterND (zeros, places, selected_ranks)

    found_ranks, order = TopK <axis = 1> (kept_ranks, s.num_detections)
    is_found = Greater (found_ranks, s.zero)
    found = Cast <to = 7> (is_found)
    found_number = Cast <to = 1> (is_found)
    found_column = Unsqueeze (found_number, s.axis_2)
    order_column = Unsqueeze (order, s.axis_2)
    ordered_boxes = GatherND <batch_dims = 1> (pair_boxes, order_column)
    boxes = Mul (ordered_boxes, found_column)
    ordered_scores = GatherElements <axis = 1> (pair_scores, order)
    scores = Mul (ordered_scores, found_number)
    ordered_classes = GatherElements <axis = 1> (pair_classes, order)
    classes = Mul (ordered_classes, found)
    count = ReduceSum <keepdims = 0> (found, s.axis_1)
}
"""


def append_suppression(
    model: bytes, anchors: NDArray[np.float32], image_size: tuple[int, int], selection: Selection
) -> bytes:
    """The graph of a detector with detections as its outputs.

    Args:
        model: float32 outputs RAW_OUTPUTS.
        anchors: (A, 4) left, top, right, bottom in pixels.
        image_size: (H, W) in pixels, to which boxes are clipped.

    Raises:
        ExportError: more detections are asked for than there are pairs of anchor and class to choose from.
    """
    parsed = onnx.load_model_from_string(model)
    graph = parsed.graph
    num_classes = graph.output[0].type.tensor_type.shape.dim[2].dim_value
    num_anchors = min(CANDIDATES, len(anchors))
    num_pairs = min(CANDIDATES, num_anchors * num_classes)
    if selection.max_detections > num_pairs:
        raise ExportError(
            f"--max-detections: expected at most {num_pairs}, the candidates of a picture, "
            f"found {selection.max_detections}"
        )
    height, width = image_size
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    constants: dict[str, NDArray[np.generic]] = {
        "axis_1": np.array([1]),
        "axis_2": np.array([2]),
        "num_anchors": np.array([num_anchors]),
        "num_pairs": np.array([num_pairs]),
        "num_classes": np.array(num_classes),
        "num_detections": np.array([selection.max_detections]),
        "pairs_shape": np.array([0, num_anchors * num_classes]),
        "picture_and_pair": np.array([0, 2]),
        "anchor_centres": centres,
        "anchor_sizes": anchors[:, 2:] - anchors[:, :2],
        "largest_log_ratio": np.array(LARGEST_LOG_RATIO, np.float32),
        "two": np.array(2, np.float32),
        "zero": np.array(0, np.float32),
        "borders": np.array([width, height, width, height], np.float32),
        # Apart by more than a picture, boxes of different classes never overlap: one class is enough for the operator.
        "apart": np.array(max(image_size) + 1, np.float32),
        "iou_threshold": np.array([selection.iou_threshold], np.float32),
        "score_threshold": np.array(selection.score_threshold, np.float32),
        "ranks": np.arange(num_pairs, 0, -1, dtype=np.float32) / num_pairs,  # the best is 1
        "zero_rank": np.array([0], np.float32),
    }
    steps = onnx.parser.parse_graph(_STEPS.replace("s.", ""))
    batch = graph.output[0].type.tensor_type.shape.dim[0].dim_param
    shared = {*RAW_OUTPUTS, *(output.name for output in steps.output)}
    for number, node in enumerate(steps.node):
        node.name = f"suppression_{number}"
        for names in (node.input, node.output):  # unlike any in the network
            names[:] = [name if name in shared else f"suppression_{name}" for name in names]
    graph.node.extend(steps.node)
    graph.initializer.extend(numpy_helper.from_array(value, f"suppression_{name}") for name, value in constants.items())
    del graph.output[:]
    for output in detection_outputs(selection.max_detections):
        kind = onnx.TensorProto.FLOAT if output.dtype == "float32" else onnx.TensorProto.INT64
        graph.output.append(onnx.helper.make_tensor_value_info(output.name, kind, [batch, *output.shape]))
    return checked_bytes(parsed)
