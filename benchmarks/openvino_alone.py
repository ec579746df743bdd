"""OpenVINO without a server: images per second in its benchmark_app, with a single-threaded call on each core."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from aaserve.bundle.bundle import MODEL_FILE, open_bundle
from aaserve.service.engine.runtime import openvino_runtime

CORES = len(os.sched_getaffinity(0))
BATCHES = (1, 8)


def precisions() -> list[str]:
    """The precisions of this machine; empty without OpenVINO."""
    if importlib.util.find_spec("openvino") is None:
        return []
    return list(openvino_runtime.TYPES) if openvino_runtime.has_bf16() else ["fp32"]


def images_per_second(bundle: Path, precision: str, seconds: float) -> dict[int, float]:
    """Images per second by batch size."""
    return {batch: _images_per_second(bundle, precision, batch, seconds) for batch in BATCHES}


def _images_per_second(bundle: Path, precision: str, batch: int, seconds: float) -> float:
    shape = [batch, *open_bundle(bundle).manifest.input.shape]
    with tempfile.TemporaryDirectory() as folder:
        # -hint none: otherwise it chooses threads and streams
        command = [str(Path(sys.executable).with_name("benchmark_app")), "-m", str(bundle / MODEL_FILE), "-d", "CPU"]
        command += ["-hint", "none", "-nthreads", str(CORES), "-nstreams", str(CORES), "-shape", str(shape)]
        command += ["-infer_precision", openvino_runtime.TYPES[precision], "-t", str(max(1, round(seconds)))]
        command += ["-json_stats", "-report_type", "no_counters", "-report_folder", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        report = json.loads((Path(folder) / "benchmark_report.json").read_text())
    return float(report["execution_results"]["throughput"])
