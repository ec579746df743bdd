"""python -m benchmarks.cpu_precision BUNDLE PICTURES [--limit N] --output FILE

What bf16 changes on photographs: one bundle in OpenVINO in fp32 and in bf16, asked about the same pictures. Where files
are called CLASS_NUMBER.jpg, CLASS of four digits as in export/imagenet-1k.txt, it also says how many are right.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

import aaserve.bundle.telemetry  # noqa: F401  (before openvino)
from aaserve.bundle.attention import gaze
from aaserve.bundle.bundle import Bundle, open_bundle
from aaserve.bundle.model_input import read_input
from aaserve.service.engine.runtime.openvino_session import OpenVinoSession
from aaserve.service.settings import Settings
from benchmarks.circumstances import write_result

MAX_PIXELS = 100_000_000


def answers(
    bundle: Bundle, pictures: list[Path]
) -> dict[str, tuple[np.ndarray, list[np.ndarray]]]:  # (N, classes), of each picture (layers * heads, 2)
    """Logits of each picture in either precision, and where each head looks."""
    manifest = bundle.manifest
    settings = Settings(provider="openvino", intra_op_num_threads=1)
    sessions = {
        name: OpenVinoSession(bundle, settings.model_copy(update={"cpu_precision": name})) for name in ("fp32", "bf16")
    }
    names = [output.name for output in manifest.all_outputs]
    found: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {name: ([], []) for name in sessions}
    for path in pictures:
        row = read_input(path.read_bytes(), manifest, max_pixels=MAX_PIXELS)[np.newaxis]
        for name, session in sessions.items():
            outputs = session.run(row, names)
            found[name][0].append(outputs[names[0]][0])
            gazes = [gaze(outputs[layer.output][0], layer.grid) for layer in manifest.attention]
            found[name][1].append(np.concatenate(gazes) if gazes else np.zeros((0, 2)))
    return {name: (np.stack(logits), gazes) for name, (logits, gazes) in found.items()}


def compared(bundle: Bundle, pictures: list[Path]) -> dict[str, Any]:
    (exact, looked), (lower, looks) = answers(bundle, pictures).values()
    differences = np.abs(lower - exact).max(axis=1) / np.maximum(1, np.abs(exact).max(axis=1))  # (N,)
    result: dict[str, Any] = {
        "pictures": len(pictures),
        "same_best_class": round(float((lower.argmax(1) == exact.argmax(1)).mean()), 4),
        "logit_difference": _spread(differences),
    }
    if bundle.manifest.attention:
        shifts = np.array([np.abs(a - b).max() for a, b in zip(looked, looks, strict=True)])
        result["largest_shift_of_a_heads_gaze"] = _spread(shifts)
    numbers = [re.match(r"(\d{4})_", path.name) for path in pictures]
    if all(numbers):
        right = np.array([int(number[1]) for number in numbers if number])
        result["top_1"] = {
            name: round(float((logits.argmax(1) == right).mean()), 4)
            for name, logits in (("fp32", exact), ("bf16", lower))
        }
    return result


def _spread(values: np.ndarray) -> dict[str, float]:
    points = {"median": 50, "99 %": 99, "largest": 100}
    return {name: round(float(np.percentile(values, point)), 5) for name, point in points.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_precision", description=__doc__.splitlines()[2])
    parser.add_argument("bundle", type=Path, help="NAME/VERSION folder")
    parser.add_argument("pictures", type=Path, help="folder of photographs")
    parser.add_argument("--limit", type=int, default=500, help="pictures, at most (default: 500)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    bundle = open_bundle(arguments.bundle.resolve())
    pictures = sorted(path for path in arguments.pictures.iterdir() if path.is_file())[: arguments.limit]
    result = {
        "model": {"name": bundle.manifest.name, "sha256": bundle.manifest.files["model.onnx"]},
        **compared(bundle, pictures),
    }
    write_result(arguments.output, result, "openvino")
    print({name: value for name, value in result.items() if name != "model"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
