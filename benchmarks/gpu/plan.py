"""What is measured on a card, and the small form of it that runs anywhere."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Plan:
    """One run: where, which networks, how much."""

    device: Literal["cuda", "cpu"]
    parity: tuple[str, ...]  # networks, see bundles.py
    augmented: str
    plain: str
    batches: tuple[int, ...]
    seconds: float  # of one measurement of calls
    load_seconds: float  # of one load of requests
    clients: tuple[int, ...]
    served: tuple[tuple[int, int], ...]  # workers, lanes of each
    served_batch: int
    decoding: tuple[int, ...]  # threads


FULL = Plan(
    device="cuda",
    parity=("shipped", "aa_resnet50", "aa_wide_resnet28_10"),
    augmented="aa_resnet50",
    plain="resnet50",
    batches=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    seconds=0.25,
    load_seconds=2.0,
    clients=(1, 16, 64, 256),
    served=((1, 1), (4, 1), (8, 1), (4, 2), (1, 2)),
    served_batch=64,
    decoding=(1, 4, 16),
)
SMALL = Plan(
    device="cpu",
    parity=("shipped",),
    augmented="shipped",
    plain="wide_resnet10_1",
    batches=(2,),
    seconds=0.05,
    load_seconds=0.25,
    clients=(1, 2),
    served=((1, 1),),
    served_batch=2,
    decoding=(1, 2),
)
