"""python -m benchmarks.pixel_input [--networks A,B] [--batch-sizes 1,8] [--rounds 40] --output FILE

Pixels to logits on the CPU, two ways that take turns: normalised by numpy outside of a float32 NCHW graph, or uint8
NHWC with the normalisation inside of the graph. Ratios are medians over rounds, inside over outside.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from aaserve.bundle.preprocessing import normalise
from aaserve.export.graph.convert import convert
from aaserve.export.graph.normalisation import PixelInput
from aaserve.export.preprocessing.presets import PRESETS
from aaserve.models import create_model
from benchmarks.attention import open_session
from benchmarks.circumstances import write_result

PREPROCESSING = PRESETS["imagenet"]


def compare(name: str, batch_sizes: list[int], rounds: int) -> dict[int, dict[str, float]]:
    """Milliseconds of both ways and their ratio, by batch size."""
    torch.manual_seed(0)
    network = create_model(name).eval()
    height, width = network.image_size
    outside = open_session(convert(network, torch.zeros(2, 3, height, width), {}))
    pixel_input = PixelInput(network, PREPROCESSING).eval()
    inside = open_session(convert(pixel_input, torch.zeros(2, height, width, 3, dtype=torch.uint8), {}))
    result = {}
    for size in batch_sizes:
        pixels = np.random.default_rng(0).integers(0, 256, (size, height, width, 3), dtype=np.uint8)
        times: dict[str, list[float]] = {"outside": [], "inside": []}
        for turn in track(range(rounds + 2), description=f"{name}, batch {size}"):
            started = time.perf_counter()
            outside.run(None, {"image": normalise(pixels, PREPROCESSING)})
            between = time.perf_counter()
            inside.run(None, {"image": pixels})
            ended = time.perf_counter()
            if turn >= 2:
                times["outside"].append(between - started)
                times["inside"].append(ended - between)
        ratios = [a / b for a, b in zip(times["inside"], times["outside"], strict=True)]
        result[size] = {way: round(statistics.median(seconds) * 1000, 3) for way, seconds in times.items()}
        result[size]["ratio"] = round(statistics.median(ratios), 3)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pixel_input", description=__doc__.splitlines()[2])
    parser.add_argument("--networks", default="aa_wide_resnet22_2,aa_resnet50", help="names, with commas between")
    parser.add_argument("--batch-sizes", default="1,8", help="rows in one call (default: 1,8)")
    parser.add_argument("--rounds", type=int, default=40, help="calls of each way (default: 40)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.batch_sizes.split(",")]
    networks = {name: compare(name, sizes, arguments.rounds) for name in arguments.networks.split(",")}
    write_result(arguments.output, {"networks": networks}, "torch", "onnxruntime")
    for name, batches in networks.items():
        for size, row in batches.items():
            print(f"{name}, batch {size}: outside {row['outside']} ms, inside {row['inside']} ms, ratio {row['ratio']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
