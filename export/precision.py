"""A verified fp32 graph --> the same graph in fp16 or int8, compared with it.

fp32 graph --to_fp16 | quantise--> lower graph --judge--> loses too much? ExportError --measure_speed--> loss, speed
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from aaserve.bundle.manifest import DetectionLowered, Lowered
from aaserve.bundle.preprocessing import Preprocessing
from aaserve.export.errors import ExportError
from aaserve.export.graph.check import check_loads, checked_bytes
from aaserve.export.graph.fp16 import check_range, to_fp16
from aaserve.export.graph.quantise import quantise
from aaserve.export.graph.runtime import Graph
from aaserve.export.judgement.samples import (
    Sample,
    find_annotated_samples,
    find_samples,
    read_batches,
    split_samples,
)
from aaserve.export.judgement.speed import Speed, measure_speed
from aaserve.export.request import Request
from aaserve.export.sources.description import Description
from aaserve.export.tasks.task import Task

SPEED_BATCH_SIZES = (1, 8)


def find_calibration(
    request: Request, description: Description, report: Callable[[str], None]
) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """The pictures that give int8 the ranges of activations, and those that judge; none without --calibration.

    `report` gets their number and what is left out.

    Raises:
        ExportError: int8 without pictures, fp32 with pictures, or an unusable folder.
    """
    if request.calibration is None:
        if request.precision == "int8":
            raise ExportError("int8 needs --calibration DIR: pictures like those that the service will see")
        return (), ()
    if request.precision == "fp32":
        raise ExportError("--calibration is for --precision fp16 and int8, found fp32")
    folder, labels, is_int8 = request.calibration, description.labels, request.precision == "int8"
    if description.is_detector and (found := find_annotated_samples(folder, labels, report)):
        calibrating, judging = found
        return (calibrating if is_int8 else ()), judging
    samples = find_samples(folder, labels, report)
    return split_samples(samples) if is_int8 else ((), samples)


def lower(
    network: bytes,
    task: Task,
    request: Request,
    preprocessing: Preprocessing,
    calibrating: Sequence[Sample],
    judging: Sequence[Sample],
    parity_pixels: NDArray[np.uint8],
    report: Callable[[str], None],
) -> tuple[bytes, Lowered | DetectionLowered, tuple[Speed, ...]]:
    """Convert the graph `network` to the precision of `request`.

    Args:
        calibrating, judging: as `find_calibration` returns them.
        parity_pixels: (N, H, W, 3); these judge where no other pictures are given.

    Returns:
        The lower graph, its loss compared with fp32, and its speed on this machine.

    Raises:
        ExportError: the loss is larger than allowed, or a value is outside the range of float16.
    """
    fp32 = Graph(network, preprocessing)
    quantised = None
    if request.precision == "int8":
        report(f"quantising with {len(calibrating)} of the pictures in {request.calibration}")
        batches = read_batches(calibrating, preprocessing)
        converted, quantised = quantise(network, (feed for pixels in batches for feed in fp32.feeds(pixels)))
    else:
        report("converting to float16 and checking the range of all values")
        converted = to_fp16(network, task.answers)
        check_loads(converted, request.precision)
        check_range(converted, parity_pixels, preprocessing)
    parsed = onnx.load_model_from_string(converted)
    metadata = {entry.key: entry.value for entry in onnx.load_model_from_string(network).metadata_props}
    onnx.helper.set_model_props(parsed, metadata | {"precision": request.precision})
    converted = checked_bytes(parsed)

    pictures = read_batches(judging, preprocessing) if judging else [parity_pixels]
    report(f"judging {request.precision} by {len(judging) or len(parity_pixels)} pictures")
    judgement = task.judge(network, converted, pictures, judging)
    if judgement.lost > request.allowed_drop + 1e-9:
        raise ExportError(
            f"precision: {judgement}; {judgement.lost:.2f} points are more than --allow-drop {request.allowed_drop:g}"
        )
    report(f"{judgement}; measuring speed")
    sizes = [size for size in SPEED_BATCH_SIZES if size <= (fp32.max_batch_size or size)]
    graphs = [Graph(task.finish(model), preprocessing) for model in (network, converted)]
    speed = tuple(measure_speed(*graphs, parity_pixels, size) for size in sizes)
    for row in speed:
        report(
            f"batch {row.batch_size} on this CPU: {row.lowered_ms:.2f} ms, fp32 {row.fp32_ms:.2f} ms, "
            f"{row.times_faster:.2f} times as fast"
        )
    cost = judgement.section(
        allowed_drop=request.allowed_drop, calibrated=len(calibrating) or None, quantised=quantised
    )
    return converted, cost, speed
