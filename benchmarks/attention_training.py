"""python -m benchmarks.attention_training [--rounds 10] --output FILE

Forward and backward of one augmented convolution in PyTorch, float32, on the CPU: the shipped attention, which pads
values to the keys' depth so that PyTorch takes its fast kernel, against the same without padding and plain products.
The three take turns; ratios are medians over rounds, over the shipped one.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from aaserve.models import attention
from aaserve.models.attention import AttentionAugmentedConv2d
from benchmarks.circumstances import write_result

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
BATCH = 128
CHANNELS = 64


def unpadded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k.transpose(2, 3), v, scale=1.0)


def products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k).softmax(-1) @ v


WAYS: dict[str, Attention] = {"shipped": attention.attend, "unpadded": unpadded, "products": products}


def compare(side: int, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds and ratios of a layer with 4 heads, 20 key and 4 value channels each, at side x side."""
    torch.manual_seed(0)
    layer = AttentionAugmentedConv2d(
        CHANNELS, CHANNELS, 3, key_channels=80, value_channels=16, num_heads=4, feature_size=(side, side)
    )
    x = torch.randn(BATCH, CHANNELS, side, side, requires_grad=True)
    times: dict[str, dict[str, list[float]]] = {name: {"forward": [], "backward": []} for name in WAYS}
    for turn in track(range(rounds + 1), description=f"{side}x{side}"):
        for name, way in WAYS.items():
            with mock.patch.object(attention, "attend", way):
                started = time.perf_counter()
                loss = layer(x).square().mean()
                between = time.perf_counter()
                loss.backward()
                ended = time.perf_counter()
            if turn > 0:
                times[name]["forward"].append(between - started)
                times[name]["backward"].append(ended - between)
    result = {}
    for name, phases in times.items():
        result[name] = {f"{phase}_ms": round(statistics.median(row) * 1000, 2) for phase, row in phases.items()}
        for phase, row in phases.items():
            base = times["shipped"][phase]
            ratio = statistics.median(a / b for a, b in zip(row, base, strict=True))
            result[name][f"{phase}_ratio"] = round(ratio, 2)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attention_training", description=__doc__.splitlines()[2]
    )
    parser.add_argument("--rounds", type=int, default=10, help="turns of each way (default: 10)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    sides = {f"{side}x{side}": compare(side, arguments.rounds) for side in (8, 16)}
    write_result(arguments.output, {"batch": BATCH, "channels": CHANNELS, "feature_sizes": sides}, "torch")
    for side, rows in sides.items():
        for name, row in rows.items():
            print(f"{side} {name:<10}", "  ".join(f"{key} {value}" for key, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
