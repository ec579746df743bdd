"""python -m benchmarks.precision --fp32 FOLDER --lower FOLDER [--lower FOLDER] --data DIR --output FILE

What fp16 and int8 bundles of one checkpoint cost and win on this machine: accuracy on the CIFAR-100 test split, and
the time of a call. All graphs stand side by side and take turns; ratios are medians over rounds, fp32 over the lower.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from aaserve.bundle.bundle import Bundle, open_bundle
from aaserve.export.graph.runtime import Graph
from aaserve.export.judgement.speed import take_turns
from aaserve.training.cifar import Split, read_split
from benchmarks.circumstances import write_result

BATCH_SIZE = 8


def accuracies(graphs: dict[str, Graph], split: Split) -> dict[str, dict[str, float]]:
    """Top-1 of each graph, and its agreement with the first."""
    batches = [split.images[start : start + BATCH_SIZE] for start in range(0, len(split.images), BATCH_SIZE)]
    best = {
        name: np.concatenate([graph(batch).argmax(1) for batch in track(batches, description=name)])
        for name, graph in graphs.items()
    }
    first = next(iter(best.values()))
    return {
        name: {"top_1": float((answers == split.labels).mean()), "agrees_with_fp32": float((answers == first).mean())}
        for name, answers in best.items()
    }


def speeds(graphs: dict[str, Graph], images: np.ndarray, rounds: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of a call with these images, and how many times faster than the first graph."""
    seconds = take_turns(graphs, images, rounds)
    first = next(iter(seconds.values()))
    return {
        name: {
            "milliseconds": round(statistics.median(times) * 1000, 3),
            "times_faster": round(statistics.median(a / b for a, b in zip(first, times, strict=True)), 2),
        }
        for name, times in seconds.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=__doc__.splitlines()[2])
    parser.add_argument("--fp32", type=Path, required=True, help="NAME/VERSION folder of the fp32 bundle")
    parser.add_argument("--lower", type=Path, action="append", required=True, help="the same, of the same checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds cifar-100-python/")
    parser.add_argument("--rounds", type=int, default=30, help="turns of each graph (default: 30)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    bundles = [open_bundle(folder.resolve()) for folder in (arguments.fp32, *arguments.lower)]
    if len({bundle.manifest.provenance.checkpoint_sha256 for bundle in bundles}) > 1:
        raise SystemExit("error: expected bundles of one checkpoint, found several")
    graphs = {bundle.manifest.precision: _graph(bundle) for bundle in bundles}
    split = read_split(arguments.data, "test")
    result: dict[str, Any] = {
        "checkpoint_sha256": bundles[0].manifest.provenance.checkpoint_sha256,
        "bytes": {bundle.manifest.precision: bundle.model_path.stat().st_size for bundle in bundles},
        "batches": {size: speeds(graphs, split.images[:size], arguments.rounds) for size in (1, 8)},
        "accuracy": {"dataset": "CIFAR-100, test split", "images": len(split.labels), **accuracies(graphs, split)},
    }
    write_result(arguments.output, result, "onnxruntime")
    for precision in graphs:
        accuracy, rows = result["accuracy"][precision], result["batches"]
        times = ", ".join(
            f"batch {n}: {r[precision]['milliseconds']} ms, {r[precision]['times_faster']} x" for n, r in rows.items()
        )
        print(f"{precision}: top-1 {accuracy['top_1']:.2%}, agrees on {accuracy['agrees_with_fp32']:.2%}; {times}")
    return 0


def _graph(bundle: Bundle) -> Graph:
    return Graph(bundle.model_path.read_bytes(), bundle.manifest.preprocessing)


if __name__ == "__main__":
    sys.exit(main())
