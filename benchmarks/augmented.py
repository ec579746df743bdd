"""python -m benchmarks.augmented PLAIN AUGMENTED [--threads 1,2] [--batch-sizes 1,8] [--rounds 30] --output FILE

What does attention cost? Two bundles of one precision, the plain network's and the augmented one's, in ONNX Runtime on
the CPU with the service's session options. Only the logits are fetched. Sessions take turns; ratios are medians over
rounds of the time over the plain network's. "augmented, again" is a second session of the same file: how far its ratio
is from the augmented one's is the noise. With one thread, processor time is what to read on a machine with other work.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import aaserve.bundle.telemetry  # noqa: F401  (before onnxruntime)
from aaserve.bundle.bundle import Bundle, open_bundle
from benchmarks.circumstances import write_result

import numpy as np  # isort: skip
import onnxruntime  # isort: skip

CALLS = 3  # of a session in each turn; the median counts
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "processor": time.process_time}


def compare(bundles: dict[str, Bundle], threads: int, batch_size: int, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds for each picture and ratios over the first bundle, by wall clock and in processor time."""
    sessions = {name: _session(bundle, threads) for name, bundle in bundles.items()}
    spent: dict[str, dict[str, list[float]]] = {name: {clock: [] for clock in CLOCKS} for name in bundles}
    for turn in range(rounds + 1):
        for name, bundle in bundles.items():
            given = bundle.manifest.input
            feed = {given.name: np.zeros((batch_size, *given.shape), given.dtype)}
            calls: dict[str, list[float]] = {clock: [] for clock in CLOCKS}
            for _ in range(CALLS):
                before = {clock: read() for clock, read in CLOCKS.items()}
                sessions[name].run([bundle.manifest.outputs[0].name], feed)
                for clock, read in CLOCKS.items():
                    calls[clock].append((read() - before[clock]) * 1000 / batch_size)
            if turn > 0:
                for clock, times in calls.items():
                    spent[name][clock].append(statistics.median(times))
    first = next(iter(spent.values()))
    return {
        name: {
            figure: round(value, 3)
            for clock, times in clocks.items()
            for figure, value in (
                (f"{clock}_ms", statistics.median(times)),
                (f"{clock}_ratio", statistics.median(a / b for a, b in zip(times, first[clock], strict=True))),
            )
        }
        for name, clocks in spent.items()
    }


def _session(bundle: Bundle, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(bundle.model_path, options, providers=["CPUExecutionProvider"])


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.augmented", description=__doc__.splitlines()[2])
    parser.add_argument("plain", type=Path, help="NAME/VERSION folder of the plain network's bundle")
    parser.add_argument("augmented", type=Path, help="the same of the augmented one, of the same precision")
    parser.add_argument("--threads", type=_numbers, default=[1, 2], help="of a session (default: 1,2)")
    parser.add_argument("--batch-sizes", type=_numbers, default=[1, 8], help="rows in one call (default: 1,8)")
    parser.add_argument("--rounds", type=int, default=30, help="turns of each session (default: 30)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    plain, augmented = (open_bundle(folder.resolve()) for folder in (arguments.plain, arguments.augmented))
    precision = plain.manifest.precision
    if augmented.manifest.precision != precision:
        raise SystemExit(
            f"error: expected bundles of one precision, found {precision} and {augmented.manifest.precision}"
        )
    bundles = {"plain": plain, "augmented": augmented, "augmented, again": augmented}
    result = {}
    for threads in arguments.threads:
        for size in arguments.batch_sizes:
            rows = result[f"{threads} threads, batch {size}"] = compare(bundles, threads, size, arguments.rounds)
            print(f"{precision}, {threads} threads, batch {size:<4}  ms a picture  over plain   processor  over plain")
            for name, row in rows.items():
                figures = "".join(
                    f"{row[key]:12.3f}" for key in ("wall_ms", "wall_ratio", "processor_ms", "processor_ratio")
                )
                print(f"  {name:<28}{figures}")
    networks = {"plain": plain.manifest.architecture, "augmented": augmented.manifest.architecture}
    write_result(arguments.output, {"precision": precision, **networks, "sessions": result}, "onnxruntime", "numpy")
    return 0


if __name__ == "__main__":
    sys.exit(main())
