"""python -m benchmarks.average_precision BUNDLE [BUNDLE …] --data DIR [--split NAME …] --output FILE

What a precision costs a detector: average precision of bundles of the same checkpoint in ONNX Runtime and OpenVINO, of
fp32 bundles also in bf16. DIR has COCO's layout, see bundle/coco/instances.py.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import aaserve.bundle.telemetry  # noqa: F401  (before openvino)
from aaserve.bundle.bundle import Bundle, open_bundle
from aaserve.bundle.coco.instances import Split
from aaserve.export.accuracy.answers import in_batches
from aaserve.export.accuracy.boxes import SPLITS, find_annotated, score_boxes
from aaserve.service.engine.runtime.openvino_session import OpenVinoSession
from aaserve.service.engine.runtime.session import OnnxSession
from aaserve.service.errors import ProviderMissing
from aaserve.service.settings import Settings
from benchmarks.harness.circumstances import write_result


def measured(bundle: Bundle, splits: dict[str, Split]) -> list[dict[str, Any]]:
    """A row for each engine and precision that the bundle can be served in, and each split."""
    manifest = bundle.manifest
    names = manifest.output_names
    openvino = Settings(provider="openvino", intra_op_num_threads=1)
    sessions = [
        OnnxSession(bundle, Settings(provider="cpu", intra_op_num_threads=1)),
        OpenVinoSession(bundle, openvino),
    ]
    if manifest.precision == "fp32":
        try:
            sessions.append(OpenVinoSession(bundle, openvino.model_copy(update={"cpu_precision": "bf16"})))
        except ProviderMissing as error:
            print(f"bf16 is left out: {error}")
    rows = []
    for session in sessions:
        for name, split in splits.items():
            batches = in_batches(split.pictures, manifest)
            score = score_boxes(lambda batch, session=session: session.run(batch, names), manifest, batches)
            row = {
                "model": {"name": manifest.name, "version": manifest.version, "sha256": manifest.files["model.onnx"]},
                "bytes": bundle.model_path.stat().st_size,
                "engine": session.provider,
                "precision": session.precision,
                "split": name,
                "pictures": score.images,
                **{key: round(value, 4) for key, value in score.row().items()},
                "classes": {
                    label: [None if value is None else round(value, 4) for value in values]
                    for label, values in zip(manifest.labels, score.of_classes, strict=True)
                },
            }
            rows.append(row)
            print(*(row[key] for key in ("engine", "precision", "split")), score, flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.average_precision", description=__doc__.splitlines()[2])
    parser.add_argument("bundles", type=Path, nargs="+", help="NAME/VERSION folders")
    parser.add_argument("--data", type=Path, required=True, help="folder of annotated pictures")
    parser.add_argument("--split", choices=SPLITS, action="append", help="may be repeated (default: val)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    rows = []
    for path in arguments.bundles:
        bundle = open_bundle(path.resolve())
        splits = {}
        for name in arguments.split or ["val"]:
            split = find_annotated(arguments.data, [name], bundle.manifest.labels, print)
            if split is None:
                print(f"error: {arguments.data}: expected instances_{name}.json, found none", file=sys.stderr)
                return 1
            splits[name] = split
        rows += measured(bundle, splits)
    write_result(arguments.output, {"rows": rows}, "onnxruntime", "openvino", "pycocotools")
    return 0


if __name__ == "__main__":
    sys.exit(main())
