"""python -m benchmarks.stored_weights FLOAT32 FLOAT16 --output FILE

What it costs to widen weights at load: two bundles of one network, each in fresh processes, in turn. Processor time and
memory of one ONNX Runtime session with one thread, to the end of its loading and after a few calls.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import aaserve.bundle.telemetry  # noqa: F401  (before onnxruntime)
from aaserve.bundle.bundle import open_bundle
from benchmarks.circumstances import ROOT, write_result

import numpy as np  # isort: skip
import onnxruntime  # isort: skip

CALLS = 20


def memory_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def measure(folder: Path) -> dict[str, float]:
    """Figures of this process, which loads the bundle and calls it."""
    opened = open_bundle(folder.resolve())
    manifest = opened.manifest
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    before, started = memory_mib(), time.process_time()
    session = onnxruntime.InferenceSession(opened.model_path, options, providers=["CPUExecutionProvider"])
    loaded, load = memory_mib(), time.process_time() - started
    row = np.zeros((1, *manifest.input.shape), manifest.input.dtype)
    calls = []
    for _ in range(CALLS):
        started = time.process_time()
        session.run([manifest.outputs[0].name], {manifest.input.name: row})
        calls.append(time.process_time() - started)
    return {
        "load_processor_ms": load * 1000,
        "loaded_mib": loaded - before,
        "called_mib": memory_mib() - before,
        "fastest_call_processor_ms": min(calls) * 1000,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stored_weights", description=__doc__.splitlines()[2])
    parser.add_argument("bundles", type=Path, nargs="*", metavar="BUNDLE", help="NAME/VERSION, float32 first")
    parser.add_argument("--rounds", type=int, default=7, help="of which the medians count (default: 7)")
    parser.add_argument("--output", type=Path, default=Path("runs/stored-weights.json"), help="JSON file to write")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one)))
        return 0
    found: dict[Path, list[dict[str, float]]] = {folder: [] for folder in arguments.bundles}
    for _ in range(arguments.rounds):
        for folder, rounds in found.items():
            command = [sys.executable, "-m", "benchmarks.stored_weights", "--one", str(folder)]
            rounds.append(json.loads(subprocess.check_output(command, cwd=ROOT, text=True)))
    rows = []
    for folder, rounds in found.items():
        opened = open_bundle(folder.resolve())
        medians = {name: round(statistics.median(one[name] for one in rounds), 2) for name in rounds[0]}
        rows.append(
            {
                "network": opened.manifest.architecture,
                "stored_weights": opened.manifest.stored_weights,
                "model_bytes": opened.model_path.stat().st_size,
                **medians,
                "rounds": rounds,
            }
        )
        print({name: value for name, value in rows[-1].items() if name != "rounds"})
    write_result(arguments.output, {"bundles": rows}, "onnxruntime", "numpy")
    return 0


if __name__ == "__main__":
    sys.exit(main())
