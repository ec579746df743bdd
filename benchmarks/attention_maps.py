"""python -m benchmarks.attention_maps [--networks A,B] [--batch-sizes 1,8] [--rounds 40] --output FILE

What do attention maps as further outputs cost those who do not ask for them? Each network with random weights, exported
with and without `--with-attention`, asked for the logits alone in ONNX Runtime on the CPU. Sessions take turns; ratios
are medians over rounds of the time over that without maps. "without, again" is a second session of the very same graph:
how far its ratio is from 1 is the noise. Memory is the peak of a process that runs that one model.
"""

import argparse
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from aaserve.export.graph.convert import INPUT_NAME, OUTPUT_NAME, convert
from aaserve.export.judgement.speed import take_turns
from aaserve.models import create_model
from aaserve.models.attention_maps import attention_layers
from benchmarks.attention import peak_memory
from benchmarks.circumstances import write_result

WITHOUT, AGAIN, WITH, ASKED = "without maps", "without, again", "with maps", "with maps, asked for"


def compare(name: str, batch_sizes: list[int], rounds: int) -> dict[int, dict[str, dict[str, float]]]:
    """Milliseconds, ratio and MiB of each way, by batch size."""
    torch.manual_seed(0)
    network = create_model(name).eval()
    example = torch.zeros(2, 3, *network.image_size)
    without, given = convert(network, example, {}), convert(network, example, {}, attention_layers(network, example))
    ways = {
        WITHOUT: (without, [OUTPUT_NAME]),
        AGAIN: (without, [OUTPUT_NAME]),
        WITH: (given, [OUTPUT_NAME]),
        ASKED: (given, None),
    }
    sessions = {way: _run(model, outputs) for way, (model, outputs) in ways.items()}
    result: dict[int, dict[str, dict[str, float]]] = {}
    for size in batch_sizes:
        batch = np.random.default_rng(0).normal(size=(size, *example.shape[1:])).astype(np.float32)
        seconds = take_turns(sessions, batch, rounds)
        result[size] = {
            way: {
                "milliseconds": round(statistics.median(times) * 1000, 3),
                "ratio": round(statistics.median(a / b for a, b in zip(times, seconds[WITHOUT], strict=True)), 3),
                "peak_mib": peak_memory(ways[way][0], size, ways[way][1]),
            }
            for way, times in seconds.items()
        }
    return result


def _run(model: bytes, outputs: list[str] | None) -> Any:
    """A function from a batch to `outputs`, with the service's session options."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return partial(_ask, session, outputs)


def _ask(session: onnxruntime.InferenceSession, outputs: list[str] | None, batch: np.ndarray) -> list[np.ndarray]:
    return session.run(outputs, {INPUT_NAME: batch})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention_maps", description=__doc__.splitlines()[2])
    parser.add_argument("--networks", default="aa_wide_resnet22_2,aa_resnet50", help="names, with commas between")
    parser.add_argument("--batch-sizes", default="1,8", help="rows in one call (default: 1,8)")
    parser.add_argument("--rounds", type=int, default=40, help="turns of each way (default: 40)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.batch_sizes.split(",")]
    networks = {}
    for name in arguments.networks.split(","):
        networks[name] = compare(name, sizes, arguments.rounds)
        write_result(arguments.output, {"networks": networks}, "torch", "onnxruntime")
        for size, ways in networks[name].items():
            print(f"{name}, batch {size:<12}  median ms   over without   peak MiB")
            for way, row in ways.items():
                print(f"  {way:<26} {row['milliseconds']:9.2f} {row['ratio']:14.3f} {row['peak_mib']:10}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
