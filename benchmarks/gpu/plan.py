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
    few_batches: tuple[int, ...]  # of ways that are only tried
    compiled: tuple[int, ...]  # batches for torch.compile, which takes a minute or more for each
    seconds: float  # of one measurement of calls
    load_seconds: float  # of one load of requests
    attention: tuple[tuple[int, int, int, int], ...]  # heads, positions, depth of queries with marks, of values
    attention_batches: tuple[int, ...]
    product: int  # side of the matrices whose product is the ceiling of arithmetic
    copied_bytes: int  # of the copy that is the ceiling of memory
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
    few_batches=(1, 8, 64),
    compiled=(64,),
    seconds=0.25,
    load_seconds=2.0,
    # All layers of aa_resnet50 (49 and 196 positions) and of aa_wide_resnet28_10 (64 to 1,024).
    attention=((8, 49, 34, 6), (8, 196, 48, 3), (8, 64, 36, 8), (8, 256, 52, 4), (8, 1024, 84, 2)),
    attention_batches=(8, 64),
    product=8192,
    copied_bytes=4 * 2**30,
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
    few_batches=(2,),
    compiled=(),
    seconds=0.05,
    load_seconds=0.25,
    attention=((4, 64, 36, 8),),
    attention_batches=(2,),
    product=256,
    copied_bytes=2**20,
    clients=(1, 2),
    served=((1, 1),),
    served_batch=2,
    decoding=(1, 2),
)
