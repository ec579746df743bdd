"""Accuracy as users of the service get it: pictures go through bundle.preprocessing."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from aaserve.bundle.preprocessing import Preprocessing, normalise
from aaserve.training.datasets.data import Pictures
from aaserve.training.log import Row
from aaserve.training.machine import Machine

BATCH_SIZE = 250
TOP_K = 5


@dataclass(frozen=True)
class Score:
    """Top-1 and top-5 accuracy, and the share of images with the same best class as the teacher's."""

    images: int
    top_1: float
    top_5: float
    agreement: float | None = None

    def __str__(self) -> str:
        text = f"top-1 {self.top_1:.2%}"
        return text if self.agreement is None else f"{text}, as the teacher {self.agreement:.2%}"

    def row(self) -> Row:
        row: Row = {"top_1": self.top_1, "top_5": self.top_5}
        return row if self.agreement is None else {**row, "agreement": self.agreement}


def evaluate(
    network: nn.Module,
    pictures: Pictures,
    preprocessing: Preprocessing,
    machine: Machine,
    teacher: nn.Module | None = None,
) -> Score:
    """Score the network in float32 on all pictures; each process takes its share of them."""
    network.eval()
    machine.share(network.buffers())  # each process has its own statistics of batch normalisation
    mine = np.arange(machine.rank, len(pictures.classes), machine.processes)
    order = [mine[start : start + BATCH_SIZE] for start in range(0, len(mine), BATCH_SIZE)]
    counts = torch.zeros(4, device=machine.device, dtype=torch.int64)
    with torch.inference_mode():
        for index, pixels in zip(order, pictures.batches(order, ()), strict=True):
            inputs = torch.from_numpy(normalise(pixels.numpy(), preprocessing)).to(machine.device)  # (B, 3, H, W)
            wanted = torch.from_numpy(pictures.classes[index]).to(machine.device)
            logits = network(inputs.to(memory_format=torch.channels_last))  # (B, num_classes)
            hits = logits.topk(min(TOP_K, logits.shape[1])).indices == wanted[:, None]  # (B, 5)
            alike = torch.zeros((), device=machine.device, dtype=torch.int64)
            if teacher:
                theirs = teacher(inputs.to(memory_format=torch.channels_last))
                alike = (theirs.argmax(dim=1) == logits.argmax(dim=1)).sum()
            counted = torch.tensor(len(index), device=machine.device)
            counts += torch.stack([counted, hits[:, 0].sum(), hits.sum(), alike])
    images, first, among, agreeing = machine.sum(counts).tolist()
    return Score(images, first / images, among / images, agreeing / images if teacher else None)
