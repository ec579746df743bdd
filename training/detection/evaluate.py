"""A network's average precision as a user would see it: through bundle.preprocessing, boxes in pixels of pictures."""

import numpy as np
import torch
from torch import nn

from aaserve.bundle.coco.average_precision import DetectionScore, average_precision, in_picture
from aaserve.bundle.detections import Detections, detections_of_batch
from aaserve.bundle.preprocessing import Preprocessing, normalise
from aaserve.models.networks.retinanet.detections import detect
from aaserve.training.detection.pictures import BoxedPictures
from aaserve.training.machine import Machine

BATCH_SIZE = 16
SCORE_THRESHOLD = 0.01
IOU_THRESHOLD = 0.5  # of suppression
MAX_DETECTIONS = 100  # of a picture, as COCO counts them


def evaluate(
    network: nn.Module, pictures: BoxedPictures, preprocessing: Preprocessing, machine: Machine, num_classes: int
) -> DetectionScore:
    """Score the network in float32 on all pictures; each process takes its share of them."""
    network.eval()
    machine.share(network.buffers())  # each process has its own statistics of batch normalisation
    mine = np.arange(machine.rank, len(pictures), machine.processes)
    order = [mine[start : start + BATCH_SIZE] for start in range(0, len(mine), BATCH_SIZE)]
    found: dict[int, Detections] = {}
    with torch.inference_mode():
        for index, (pixels, _, _) in zip(order, pictures.batches(order, ()), strict=True):
            inputs = torch.from_numpy(normalise(pixels.numpy(), preprocessing)).to(machine.device)  # (B, 3, H, W)
            class_logits, box_deltas = network(inputs.to(memory_format=torch.channels_last))
            detections = detect(
                class_logits,
                box_deltas,
                network.anchors,
                image_size=preprocessing.crop,
                score_threshold=SCORE_THRESHOLD,
                iou_threshold=IOU_THRESHOLD,
                max_detections=MAX_DETECTIONS,
            )
            rows = detections_of_batch({name: values.cpu().numpy() for name, values in detections._asdict().items()})
            for number, one in zip(index.tolist(), rows, strict=True):
                found[number] = in_picture(one, pictures.pictures[number], preprocessing)
    return average_precision(pictures.pictures, machine.gathered(found), num_classes)
